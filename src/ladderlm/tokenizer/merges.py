"""Learn byte pairs from a stream of text, in bounded memory.

Owns the counting of pieces and the choice of merges. The result equals that of Hugging Face's
`BpeTrainer`, ties included, as long as fewer than a million different pieces occur.
"""

import heapq
import itertools
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ladderlm.tokenizer.bpe_file import byte_alphabet
from ladderlm.tokenizer.split import SPLIT_PATTERN

__all__ = ["count_pieces", "learn_tokens"]

MAX_PIECES = 1_000_000
MAX_PIECE_CHARS = 1024  # a longer one, such as a line of base64, is expensive and teaches nothing
_BITS = 20  # of a token id; a pair is encoded as one number


def count_pieces(texts: Iterable[str], max_pieces: int = MAX_PIECES) -> Counter[str]:
    """Count the pieces that `SPLIT_PATTERN` splits texts into.

    Args:
        texts: read once, one at a time.
        max_pieces: when more are known, the rarest are dropped until half are left. A count is too
            small by at most the sum of the thresholds of these rounds.

    Source: Manku and Motwani 2002, lossy counting.
    """
    import regex

    find = regex.compile(SPLIT_PATTERN).findall
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(piece for piece in find(text) if len(piece) <= MAX_PIECE_CHARS)
        threshold = 0
        while len(counts) > (max_pieces if not threshold else max_pieces // 2):
            threshold += 1
            counts = Counter({piece: n for piece, n in counts.items() if n > threshold})
    return counts


def learn_tokens(counts: Mapping[str, int], n_tokens: int) -> list[bytes]:
    """Merge the most frequent pair of tokens into a new token repeatedly.

    Ties go to the pair with the smaller ids, the left one first. A merge visits only the words that
    contain the pair.

    Args:
        counts: number of occurrences of each piece.
        n_tokens: size of the result, the 256 bytes included.

    Returns:
        Bytes of each token in the order of ids: bytes in the order of their letters in
        `byte_alphabet`, then merges. Fewer than `n_tokens` if no pair is left.

    Source: Sennrich et al. 2016, algorithm 1.
    """
    alphabet = byte_alphabet()
    tokens = [bytes([byte]) for byte in sorted(alphabet, key=alphabet.__getitem__)]
    ids = {token: i for i, token in enumerate(tokens)}
    id_of_byte = [ids[bytes([byte])] for byte in range(256)]
    words = [[id_of_byte[byte] for byte in piece.encode()] for piece in counts]
    n_times = list(counts.values())
    totals: defaultdict[int, int] = defaultdict(int)
    places: defaultdict[int, array[int]] = defaultdict(lambda: array("I"))
    for i, word in enumerate(words):
        for left, right in itertools.pairwise(word):
            pair = left << _BITS | right
            totals[pair] += n_times[i]
            places[pair].append(i)
    counted = _PairCounts(n_times, totals, places)
    heap = [(-n, pair) for pair, n in totals.items()]
    heapq.heapify(heap)
    while heap and len(tokens) < n_tokens:
        negative, pair = heapq.heappop(heap)
        if -negative != totals[pair]:  # the count has changed since it was pushed
            if totals[pair] > 0:
                heapq.heappush(heap, (-totals[pair], pair))
            continue
        left, right = pair >> _BITS, pair & ((1 << _BITS) - 1)
        token = tokens[left] + tokens[right]
        if token not in ids:  # another pair may have made it already
            ids[token] = len(tokens)
            tokens.append(token)
        grown: set[int] = set()
        for i in places.pop(pair, ()):
            words[i] = counted.replace(i, words[i], (left, right), ids[token], grown)
        for other in grown:
            if totals[other] > 0:
                heapq.heappush(heap, (-totals[other], other))
    return tokens


@dataclass(frozen=True)
class _PairCounts:
    """Counts and places of all pairs of adjacent tokens.

    Args:
        n_times: number of occurrences of each word.
        totals: pair -> number of occurrences in all words.
        places: pair -> indices of the words that contain it, or once did.
    """

    n_times: list[int]
    totals: defaultdict[int, int]
    places: defaultdict[int, "array[int]"]

    def replace(
        self, place: int, word: list[int], pair: tuple[int, int], new: int, grown: set[int]
    ) -> list[int]:
        """Replace a pair in one word, and update the counts of the adjacent pairs."""
        (left, right), totals, places = pair, self.totals, self.places
        n_times = self.n_times[place]
        merged: list[int] = []
        at, end = 0, len(word)
        while at < end:
            if word[at] != left or at + 1 == end or word[at + 1] != right:
                merged.append(word[at])
                at += 1
                continue
            if merged:
                made = merged[-1] << _BITS | new
                totals[merged[-1] << _BITS | left] -= n_times
                totals[made] += n_times
                grown.add(made)
                places[made].append(place)
            if at + 2 < end:
                made = new << _BITS | word[at + 2]
                totals[right << _BITS | word[at + 2]] -= n_times
                totals[made] += n_times
                grown.add(made)
                places[made].append(place)
            merged.append(new)
            at += 2
        return merged
