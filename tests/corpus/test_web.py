"""What goes to a server and what is read from it: token, redirects, length, hash and version."""

import pytest

from ladderlm.corpus.web import Remote, ask_server, hub_endpoint, open_url, total_of
from mirror import Answer, serve

DIGEST = "ab" * 32


@pytest.fixture
def servers(monkeypatch):
    """A hub that HF_ENDPOINT names, and a storage behind it."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serve() as hub, serve() as storage:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.files["/a"] = storage.files["/a"] = b"data"
        yield hub, storage


def test_the_token_goes_to_the_hub_and_to_nobody_else(servers, monkeypatch):
    """P06: a redirect to the storage must not carry it."""
    hub, storage = servers
    monkeypatch.setenv("HF_TOKEN", " hf_secret\n")
    hub.at["/a"] = Answer(status=302, headers={"Location": storage.url + "/a"})
    with open_url(hub.url + "/a", {"Range": "bytes=1-"}) as answer:
        assert answer.read() == b"ata"
    with open_url(storage.url + "/a"):
        pass
    assert hub.seen[0][1]["Authorization"] == "Bearer hf_secret"
    assert len(storage.seen) == 2
    assert all("Authorization" not in headers for _, headers in storage.seen)
    assert storage.seen[0][1]["Range"] == "bytes=1-"


def test_a_redirect_within_the_hub_keeps_the_token(servers, monkeypatch):
    hub, _ = servers
    monkeypatch.setenv("HF_TOKEN", "t")
    hub.at["/old"] = Answer(status=307, headers={"Location": "/a"})
    with open_url(hub.url + "/old") as answer:
        assert answer.read() == b"data"
    assert [headers["Authorization"] for _, headers in hub.seen] == ["Bearer t"] * 2


def test_without_a_token_none_is_sent(servers):
    hub, _ = servers
    with open_url(hub.url + "/a"):
        pass
    assert "Authorization" not in hub.seen[0][1]


def test_the_hub_says_length_and_hash_without_the_storage_being_asked(servers):
    hub, storage = servers
    said = {"X-Linked-Etag": f'"{DIGEST}"', "X-Linked-Size": "12345"}
    hub.heads = Answer(status=302, headers={**said, "Location": storage.url + "/a"})
    assert ask_server(hub.url + "/a") == Remote(12345, DIGEST, DIGEST)
    assert storage.seen == []


def test_a_renamed_dataset_is_followed_by_head(servers):
    hub, _ = servers
    hub.at["/old"] = Answer(status=307, headers={"Location": "/a"})
    hub.at["/a"] = Answer(headers={"ETag": '"v1"'})
    assert ask_server(hub.url + "/old") == Remote(4, None, "v1")
    assert hub.probed == ["/old", "/a"]
    assert hub.asked == []


@pytest.mark.parametrize(
    ("headers", "remote"),
    [
        ({}, Remote(4, None, None)),
        ({"ETag": 'W/"weak"'}, Remote(4, None, None)),
        ({"ETag": '"v1"'}, Remote(4, None, "v1")),
        ({"X-Linked-Etag": '"0123456789012345678901234567890123456789"'}, None),
    ],
)
def test_what_any_server_says_is_read(headers, remote, servers):
    hub, _ = servers
    hub.at["/a"] = Answer(headers=headers)
    found = ask_server(hub.url + "/a")
    if remote is not None:
        assert found == remote
    assert found.sha256 is None


def test_a_length_of_nothing_is_not_believed(servers):
    hub, _ = servers
    hub.at["/a"] = Answer(length="0")
    assert ask_server(hub.url + "/a").n_bytes is None


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=404),
        Answer(status=405),
        Answer(status=501),
        Answer(headers={"Content-Type": "text/html"}),
    ],
)
def test_a_server_that_does_not_tell_gives_nothing(answer, servers):
    hub, _ = servers
    hub.at["/a"] = answer
    assert ask_server(hub.url + "/a") is None


def test_no_server_is_told_apart_from_no_answer():
    with serve() as gone:
        url = gone.url
    with pytest.raises(OSError, match="refused"):
        ask_server(url + "/a")


def test_the_endpoint_has_a_default(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "")
    assert hub_endpoint() == "https://huggingface.co"
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.invalid/")
    assert hub_endpoint() == "http://mirror.invalid"


@pytest.mark.parametrize(
    ("text", "total"), [("bytes */12", 12), ("bytes 0-3/4", 4), ("bytes 0-3/*", None), (None, None)]
)
def test_the_length_of_the_whole_is_read_from_content_range(text, total):
    assert total_of(text) == total
