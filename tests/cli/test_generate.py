"""`ladderlm generate`: prompts from everywhere, samples as text or JSON."""

import io
import shutil
import sys

import pytest


@pytest.fixture
def stdin(monkeypatch):
    """Set the bytes of standard input."""

    def give(raw):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))

    return give


@pytest.fixture
def write(ladderlm, shared_run):
    """Generate a few tokens from the shared run."""

    def call(*words):
        return ladderlm("generate", shared_run, "--max-new-tokens", "6", *words)

    return call


def test_without_a_prompt_the_text_comes_from_nothing(write):
    said = write("--json")
    assert said.code == 0
    assert said.json[0]["prompt"] == ""
    assert write().out.rstrip("\n") == said.json[0]["text"]


def test_a_prompt_is_the_same_from_the_line_a_file_and_standard_input(write, stdin, tmp_path):
    text = "def loss é\n"
    (tmp_path / "prompt.txt").write_text(text, encoding="utf-8")
    stdin(text.encode())
    found = [
        write("--json", *words).json
        for words in (
            ["--prompt", text],
            ["--prompt-file", tmp_path / "prompt.txt"],
            ["--prompt", "-"],
        )
    ]
    assert found[0] == found[1] == found[2]
    assert found[0][0]["prompt"] == text


def test_the_word_none_is_a_prompt_like_any_other(write):
    assert write("--prompt", "None", "--json").json[0]["prompt"] == "None"


@pytest.mark.parametrize(
    "text", ["", "<|end_of_text|>", "a\x00b", "loss " * 200, "👩‍👩‍👧", "\ufeff"]
)
def test_odd_prompts_are_defined(text, write, stdin):
    """G01: empty, only the name of a control token, NUL, longer than the context, emoji."""
    stdin(text.encode())
    said = write("--prompt", "-", "--json")
    assert said.code == 0, said.err
    assert said.json[0]["prompt"] == text


@pytest.mark.parametrize("where", ["stdin", "file"])
def test_a_prompt_that_is_not_utf8_is_refused_with_the_byte(where, write, stdin, tmp_path):
    """G01: invalid UTF-8."""
    stdin(b"ab\xff")
    (tmp_path / "p").write_bytes(b"ab\xff")
    said = write(*(["--prompt", "-"] if where == "stdin" else ["--prompt-file", tmp_path / "p"]))
    assert said.code == 2
    assert "not UTF-8 at byte 2" in said.err


def test_a_prompt_on_the_line_that_is_not_utf8_is_refused(write):
    said = write("--prompt", b"a\xff".decode("utf-8", "surrogateescape"))
    assert said.code == 2
    assert "lone surrogate" in said.err


def test_a_closed_standard_input_is_an_empty_prompt(write, monkeypatch):
    """X01."""
    monkeypatch.setattr(sys, "stdin", None)
    said = write("--prompt", "-", "--json")
    assert (said.code, said.json[0]["prompt"]) == (0, "")


def test_samples_are_numbered_and_each_is_that_of_its_seed(write):
    three = write("--prompt", "def ", "--num-samples", "3", "--seed", "5", "--json").json
    assert [row["seed"] for row in three] == [5, 6, 7]
    alone = write("--prompt", "def ", "--seed", "7", "--json").json
    assert alone == [three[2]]
    shown = write("--prompt", "def ", "--num-samples", "3", "--seed", "5").out
    assert [f"--- sample {i + 1}, seed {5 + i}" in shown for i in range(3)] == [True] * 3
    assert all(row["text"] in shown for row in three)


def test_echo_prints_the_prompt_before_its_continuation(write):
    words = ["--prompt", "the loss", "--temperature", "0"]
    assert write(*words, "--echo").out == "the loss" + write(*words).out


def test_log_probabilities_belong_to_the_tokens(write):
    row = write("--prompt", "def ", "--json", "--logprobs").json[0]
    assert len(row["tokens"]) == len(row["logprobs"]) <= 6
    assert all(value < 0 for value in row["logprobs"])
    assert "".join(row["tokens"]).removeprefix(" ") == row["text"] or "\ufffd" in row["text"]


def test_checkpoints_can_be_chosen(write):
    assert write("--checkpoint", "4").code == 0
    said = write("--checkpoint", "5")
    assert said.code == 2
    assert "only those of steps [4, 8]" in said.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--temperature", "-1"], "temperature must be finite and not negative, got -1"),
        (["--temperature", "nan"], "temperature must be finite and not negative, got nan"),
        (["--top-p", "0"], "top_p must be above 0 and at most 1, got 0.0"),
        (["--top-p", "1.5"], "top_p must be above 0 and at most 1, got 1.5"),
        (["--top-k", "0"], "top_k must be at least 1, got 0"),
        (["--seed", "-1"], "seed must be at least 0 and below 2^62, got -1"),
        (["--max-new-tokens", "0"], "--max-new-tokens must be at least 1, got 0"),
        (["--num-samples", "0"], "--num-samples must be at least 1, got 0"),
        (["--step", "4"], "--step is no longer an option\n  fix: use --checkpoint\n"),
        (["--average"], "fix: use --checkpoint average\n"),
        (["--logprobs"], "--logprobs needs --json"),
        (["--prompt", "a", "--prompt-file", "b"], "--prompt cannot be combined with --prompt-file"),
        (["--prompt-file", "nowhere.txt"], "nowhere.txt: No such file"),
        (["--num-sample", "3"], "--num-samples"),
        (["--min-p", "2"], "min_p must be between 0 and 1, got 2.0"),
        (["--repetition-penalty", "0"], "repetition_penalty must be finite and positive, got 0.0"),
        (["--stop", ""], "--stop must not be empty"),
        (["--stream", "--json"], "--stream cannot be combined with --json"),
        (["--stream", "--num-samples", "2"], "leave --stream out"),
        (["--lines", "--prompt", "a"], "use --prompt-file FILE or --prompt -"),
        (["--device", "tpu"], "cpu, cuda or cuda:1"),
        (["--device", "cuda:99"], "CUDA devices here"),
        (["--dtype", "int3"], "--dtype"),
    ],
)
def test_wrong_options_are_refused(words, says, write):
    said = write(*words)
    assert said.code == 2
    assert says in said.err
    assert said.out == ""


def test_a_damaged_or_foreign_folder_is_named(ladderlm, run, tmp_path, damage):
    assert "is not a run folder" in ladderlm("generate", tmp_path).err
    for step in (4, 8):
        damage(run / f"checkpoints/step-{step:08d}/model.safetensors")
    said = ladderlm("generate", run)
    assert said.code == 2
    assert "damaged" in said.err


def test_what_a_terminal_would_obey_is_shown_to_it_and_kept_in_a_pipe(write, on_terminal):
    """G04: escape sequences in a text."""
    words = ["--prompt", "\x1b[31m\x07 red\u202e", "--echo"]
    assert "\x1b[31m\x07" in write(*words).out
    on_terminal()
    said = write(*words)
    assert said.code == 0
    assert "\\u{1b}[31m\\u{7} red\\u{202e}" in said.out
    assert all(char.isprintable() or char in "\n\t" for char in said.out)


GREEDY = ["--temperature", "0", "--max-new-tokens", "24"]


def test_every_line_of_a_file_is_a_prompt(write, stdin, tmp_path):
    """In batches, with samples; a carriage return is no part of a line, a form feed is."""
    lines = ["def ", "", "return the loss", "a\fb", *(f"{n} times" for n in range(20))]
    (tmp_path / "lines.txt").write_bytes("\r\n".join(lines).encode())
    words = ["--lines", "--num-samples", "2", "--seed", "3", "--json"]
    rows = write(*words, "--prompt-file", tmp_path / "lines.txt").json
    assert [row["prompt"] for row in rows] == [line for line in lines for _ in range(2)]
    assert [row["seed"] for row in rows] == list(range(3, 51))
    for i in (0, 5, 40):
        alone = write("--prompt", rows[i]["prompt"], "--seed", str(3 + i), "--json").json
        assert alone == [rows[i]]
    stdin("\n".join(lines).encode())
    assert write(*words).json == rows
    stdin(b"")
    assert "found no line" in write("--lines").err


def test_a_stop_string_ends_the_text(write):
    whole = write(*GREEDY, "--prompt", "def ", "--json").json[0]
    stop = whole["text"][3:5]
    cut = write(*GREEDY, "--prompt", "def ", "--stop", "\x00", "--stop", stop, "--json").json[0]
    assert cut["text"] == whole["text"][: whole["text"].index(stop)]
    assert cut["stopped"]


def test_a_streamed_text_is_the_same_text(write, on_terminal):
    """G01 and G04: in pieces of whole characters, and harmless on a terminal."""
    words = [*GREEDY, "--prompt", "\x1b[31m def ", "--echo"]
    plain = write(*words).out
    assert write(*words, "--stream").out == plain
    on_terminal()
    assert write(*words, "--stream").out == plain.replace("\x1b", "\\u{1b}")


def test_echo_with_log_probabilities_scores_the_prompt_too(write):
    words = ["--prompt", "def loss", "--json", "--logprobs", "--temperature", "0"]
    short, whole = write(*words).json[0], write(*words, "--echo").json[0]
    n = len(whole["tokens"]) - len(short["tokens"])
    assert n >= 1
    assert whole["tokens"][n:] == short["tokens"]
    assert whole["logprobs"][n:] == pytest.approx(short["logprobs"], abs=1e-5)
    assert whole["logprobs"][0] == 0.0  # BOS has nothing before it
    assert all(value < 0 for value in whole["logprobs"][1:])


def test_filters_change_what_is_drawn(write):
    plain = write("--prompt", "def ", "--temperature", "3").out
    greedy = write("--prompt", "def ", "--temperature", "0").out
    assert write("--prompt", "def ", "--temperature", "3", "--min-p", "1").out == greedy != plain
    words = ["--prompt", "def ", "--temperature", "0", "--repetition-penalty", "1000"]
    tokens = write(*words, "--json", "--logprobs").json[0]["tokens"]
    assert len(set(tokens)) == len(tokens)


def test_half_precision_writes_too(write):
    said = write("--dtype", "bfloat16", "--json", "--temperature", "0")
    assert said.code == 0
    assert said.json[0]["text"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="[cc] no C compiler")
def test_compiled_code_writes_the_same_text(write):
    """G03: with the cache of either."""
    words = [*GREEDY, "--prompt", "def "]
    assert write(*words, "--compile").out == write(*words).out
    said = write(*words, "--compile", "--dtype", "float16")
    assert said.code == 2
    assert "must be float32 or bfloat16, got torch.float16" in said.err


def test_a_model_of_transformers_is_told_apart_from_a_broken_run(ladderlm, tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    said = ladderlm("generate", tmp_path)
    assert said.code == 2
    assert "is a folder of transformers, not a run" in said.err
    assert "convert" in said.err


def test_a_prompt_is_kept_whole_without_healing(ladderlm, shared_run):
    words = ("--prompt", "def ", "--max-new-tokens", "4", "--temperature", "0", "--no-heal")
    said = ladderlm("generate", shared_run, *words, "--json", "--logprobs", "--echo")
    assert said.code == 0, said.err
    assert "".join(said.json[0]["tokens"]).removeprefix("<|bos|>").startswith("def ")
