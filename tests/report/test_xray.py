"""The X-ray page: whole, alone, harmless, and showing what is in the batch."""

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from browser import open_offline
from builders import make_records, write_jsonl
from ladderlm.data.config import DataConfig
from ladderlm.data.inspect import POLICIES, show_tokens
from ladderlm.data.shards import open_data
from ladderlm.data.stream import RowStream
from ladderlm.eval.proofs import Proof
from ladderlm.model.attention import document_mask
from ladderlm.prepare.prepare import PrepareConfig, prepare
from ladderlm.report.figures.xray import attention_svg, histogram_svg, strip_svg
from ladderlm.report.xray import HEAT_STEPS, Xray, heat_levels, render_xray
from ladderlm.text import visible
from ladderlm.tokenizer.load import load_tokenizer
from reference.hostile import ALL, HOSTILE

HARMLESS_TAGS = set(
    "html head meta title link style body input label header main section article div span p b i"
    " code h1 h2 h3 dl dt dd ul li table thead tbody tr th td figure figcaption details summary pre"
    " footer svg rect path text".split()
)
ADDRESSES = ("href", "src", "srcset", "action", "data", "poster", "background", "xlink:href")


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.tokens = [], [], "", []
        self._style, self._token = False, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        self._style = tag == "style"
        classes = (found.get("class") or "").split()
        if tag == "span" and "t" in classes and "title" in found:
            self._token = {"classes": classes, "hover": found["title"], "text": ""}
            self.tokens.append(self._token)

    def handle_endtag(self, _tag):
        self._style = False
        self._token = None

    def handle_data(self, data):
        if self._token is not None:
            self._token["text"] += data
        if not self._style:
            self.text += data


@pytest.fixture(scope="session")
def hostile_data(tiny_tokenizer_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile-rows")
    records = make_records(20, seed=4)
    for i, record in enumerate(records):
        record["text"] = f"{i} {ALL} é€ \x00\x9b {record['text'][:200]}"
        record["meta"]["pile_set_name"] = ALL if i % 2 else HOSTILE["image"]
    write_jsonl(folder / "train.jsonl", records)
    tokenizer = str(tiny_tokenizer_folder)
    prepare(
        PrepareConfig(sources=(str(folder),), tokenizer=tokenizer, out=str(folder / "prepared"))
    )
    return folder / "prepared"


def xray_of(folder, packing="concat", mask_documents=True, **fields):
    data = open_data(folder)
    config = DataConfig(seq_len=64, packing=packing, mask_documents=mask_documents)
    stream = RowStream(data.split("train"), config, data.bos_id)
    values = {"title": ALL, "first_row": 0, "number": 0, "n_shown": 3} | fields
    return Xray(
        stream=stream,
        tokenizer=load_tokenizer(data.tokenizer_folder),
        batch=stream.rows(0, 6),
        **values,
    )


def losses_of(xray):
    return np.random.default_rng(0).gamma(2.0, 1.5, (xray.n_shown, 64))


PROOFS = (
    Proof("labels", True, "all of 3", {}),
    Proof(ALL, False, ALL, {}),
)


@pytest.fixture(params=[(p, m, loss) for p in POLICIES for m in (True, False) for loss in (0, 1)])
def any_xray(request, hostile_data):
    packing, mask_documents, with_losses = request.param
    xray = xray_of(hostile_data, packing, mask_documents, proofs=PROOFS, model_note=ALL)
    if with_losses:
        xray = Xray(**{**vars(xray), "losses": losses_of(xray)})
    return xray


def test_the_page_loads_nothing_and_runs_nothing_whatever_the_documents_hold(any_xray):
    """P01: one file, a policy that forbids the rest, no script, no address, no hidden character."""
    html = render_xray(any_xray)
    page = Page(html)
    policy = [v for t, n, v in page.attributes if t == "meta" and n == "content" and "src" in v]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert set(page.tags) <= HARMLESS_TAGS
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert [v for _, n, v in page.attributes if n in ADDRESSES] == ["data:,"]
    assert "url(" not in html
    assert "@import" not in html
    assert html == visible(html)
    assert HOSTILE["script"] in page.text
    assert "1337" not in page.text  # a template in a document is not filled in


def test_every_token_of_the_shown_rows_stands_there_with_its_numbers(any_xray):
    page = Page(render_xray(any_xray))
    batch, expected = any_xray.batch, []
    for row in range(any_xray.n_shown):
        for place in np.flatnonzero(batch.segment_ids[row] >= 0).tolist():
            expected.append((row, place))
    tokens = [token for token in page.tokens if "place" in token["hover"]]
    assert len(tokens) == len(expected)
    masked = any_xray.stream.config.mask_documents
    for token, (row, place) in zip(tokens, expected, strict=True):
        position = int(batch.positions[row, place]) if masked else place
        assert token["hover"].startswith(
            f"place {place}, position {position}, segment {batch.segment_ids[row, place]}, "
            f"document {batch.document_ids[row, place]} ("
        )
        assert f"\ninput {batch.tokens[row, place]} " in token["hover"]
        assert f"\ntarget {batch.targets[row, place]} " in token["hover"]
        losses = any_xray.losses
        assert ("loss of the target" in token["hover"]) == (losses is not None)
        if losses is not None:
            assert f"loss of the target {losses[row, place]:.3f} nats" in token["hover"]
    ids = batch.tokens[0, batch.segment_ids[0] == 0].tolist()
    shown = [token.text for token in show_tokens(ids, any_xray.tokenizer)]
    plain = [token["text"].replace("⏎\n", "\n").replace("⇥\t", "\t") for token in tokens]
    assert plain[: len(shown) - 1] == shown[:-1]  # the last may end a character with its target
    for name, array in vars(batch).items():
        assert f"{name}: {' '.join(str(int(value)) for value in array[0])}\n" in page.text


def test_the_page_tells_policy_summary_and_proofs(any_xray):
    text = " ".join(Page(render_xray(any_xray)).text.split())
    config, report = any_xray.stream.config, any_xray.stream.report()
    assert f"Packing {config.packing}, attention" in text
    assert ("within documents, order" in text) == config.mask_documents
    assert f"{report.waste:.3%} of all places" in text
    assert f"{report.n_cut:,}{report.n_cut_needlessly:,}" in text.replace(" ", "")
    assert "Proofs: 1 of 2 hold" in text
    assert "PASSlabels: all of 3." in text
    assert "FAIL<script>alert(1)</script>" in text
    assert ("nats per token" in text) == (any_xray.losses is not None)
    n_padding = int((any_xray.batch.segment_ids[: any_xray.n_shown] < 0).sum())
    counted = re.findall(r"padding × (\d+)", text.split("Legend")[0])
    assert sum(map(int, counted)) == n_padding


def test_heat_follows_the_loss_of_the_token_itself(hostile_data):
    """The box of a token is as hot as its own prediction, which happened one place before."""
    xray = xray_of(hostile_data, n_shown=1)
    losses = losses_of(xray)
    page = Page(render_xray(Xray(**{**vars(xray), "losses": losses})))
    levels = heat_levels(losses[0], xray.batch.loss_mask[0])
    segments = xray.batch.segment_ids[0]
    tokens = [token for token in page.tokens if "place" in token["hover"]]
    for place, token in enumerate(tokens):
        heat = [int(name[1:]) for name in token["classes"] if re.fullmatch(r"k\d", name)]
        first = place == 0 or segments[place] != segments[place - 1]
        assert heat == ([] if first else [levels[place - 1]])


def test_heat_steps_are_fixed_and_cover_every_loss():
    mask = np.array([True, True, True, True, False])
    assert heat_levels(np.array([0.0, 0.25, 7.9, 1e9, 3.0]), mask) == [0, 1, 8, 9, -1]
    assert list(HEAT_STEPS) == sorted(HEAT_STEPS)


def areas(svg):
    """Count the pairs inside the triangles of each kind."""
    counted = {}
    for path in ElementTree.fromstring(svg).iter("path"):
        begin, end = map(int, re.fullmatch(r"M(\d+) \d+V(\d+)H\d+Z", path.get("d")).groups())
        kind = "own" if path.get("class")[0] == "f" else path.get("class")
        counted[kind] = counted.get(kind, 0) + (end - begin) * (end - begin + 1) // 2
    return counted


@pytest.mark.parametrize("packing", POLICIES)
def test_the_picture_of_attention_is_that_of_the_mask(packing, hostile_data):
    """Triangles hold as many pairs as the model's own mask lets through."""
    import torch

    xray = xray_of(hostile_data, packing)
    for row in range(6):
        segments = xray.batch.segment_ids[row]
        n_real = int((segments >= 0).sum())
        mask = document_mask(torch.from_numpy(segments[None]))[0, 0, :n_real, :n_real]
        svg = attention_svg(segments, True)
        assert areas(svg) == {"own": int(mask.sum()), "hidden": n_real * (n_real + 1) // 2}
        assert f"{int(mask.sum()):,} of {n_real * (n_real + 1) // 2:,} causal pairs" in svg
        assert areas(attention_svg(segments, False))["leak"] == n_real * (n_real + 1) // 2


def test_lanes_cover_what_they_stand_for():
    segments = np.array([0, 0, 0, 1, 1, -1, -1, -1])
    positions = np.array([0, 1, 2, 0, 1, 0, 0, 0])
    mask = segments >= 0
    root = ElementTree.fromstring(strip_svg(segments, positions, mask, [1, 1, 2, 0, 9, -1, -1, -1]))
    widths = {}
    for shape in root.iter("rect"):
        name = shape.get("class")
        widths[name] = widths.get(name, 0) + int(shape.get("width"))
    assert widths == {"f0": 3, "f1": 2, "counts": 5, "k0": 1, "k1": 2, "k2": 1, "k9": 1}


def test_bars_are_as_high_as_their_shares():
    svg = histogram_svg(["a", "b", "c"], np.array([0.75, 0.0]), np.array([0.5, 0.5]), "x", "of y")
    heights = [float(bar.get("height")) for bar in ElementTree.fromstring(svg).iter("rect")]
    assert heights[1] == 0
    assert heights[0] == max(heights) > 50
    few = histogram_svg(["a", "b", "c"], np.array([0.9999, 1e-4]), None, "x", "of y")
    assert float(list(ElementTree.fromstring(few).iter("rect"))[1].get("height")) == 1


def test_a_page_opens_in_a_browser_without_a_complaint(hostile_data, tmp_path):
    """P01: offline; a refused load or script would be a line of the console."""
    xray = xray_of(hostile_data, "best-fit", proofs=PROOFS)
    html = render_xray(Xray(**{**vars(xray), "losses": losses_of(xray)}))
    file = tmp_path / "page.html"
    file.write_text(html, encoding="utf-8")
    dom = open_offline(file, tmp_path / "profile")
    assert Page(dom).tokens == Page(html).tokens
    assert Page(dom).text.split() == Page(html).text.split()
