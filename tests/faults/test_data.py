"""Data of one's own: what is read is what lies in the file that was named, and a row that is wrong is named."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets
import huggingface_hub
import pyarrow
import pytest
from huggingface_hub.utils import close_session
from pyarrow import parquet
from refusals import refused

from zolab.models.hub import OfflineError, require_hub
from zolab.tasks import Description, Example, digest, load_task
from zolab.tasks.data import Source
from zolab.tasks.files import read_rows

ROWS = [{"sentence": f"film {n}", "label": n % 2} for n in range(12)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that ZOLAB_DATA names."""
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    return tmp_path


def write(folder, rows, task="sst2"):
    """Both splits; rows are objects, or lines as they are."""
    (folder / task).mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    for split in ("train", "validation"):
        (folder / task / f"{split}.jsonl").write_bytes(b"\n".join(lines))


# --- which file


def test_a_changed_file_of_the_same_size_and_time_is_read_anew(folder):
    write(folder, ROWS)
    paths = [folder / "sst2" / f"{split}.jsonl" for split in ("train", "validation")]
    times = [path.stat().st_mtime_ns for path in paths]
    before = load_task("sst2").held_out(0, 12)
    write(folder, [row | {"label": 1 - row["label"]} for row in ROWS])
    for path, time in zip(paths, times, strict=True):
        os.utime(path, ns=(time, time))
    after = load_task("sst2").held_out(0, 12)
    assert [e.answer for e in after] == [1 - e.answer for e in before]
    assert digest(after) != digest(before)


def test_a_changed_parquet_file_is_read_anew(folder):
    (folder / "sst2").mkdir()
    path = folder / "sst2" / "validation.parquet"
    answers = []
    for label in (0, 1):
        datasets.Dataset.from_list([{"sentence": "a", "label": label}]).to_parquet(path)
        os.utime(path, ns=(10**18, 10**18))
        answers.append(load_task("sst2").held_out()[0].answer)
    assert answers == [0, 1]


def test_a_path_is_no_pattern(tmp_path, monkeypatch):
    write(tmp_path / "run1", [row | {"label": 0} for row in ROWS])
    write(tmp_path / "run[1]", [row | {"label": 1} for row in ROWS])
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path / "run[1]"))
    assert {e.answer for e in load_task("sst2").held_out()} == {1}


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    write(tmp_path / "data", ROWS)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ZOLAB_DATA", "~/data")
    assert len(load_task("sst2").held_out()) == 12


# --- what is in it


def test_texts_that_look_like_dates_stay_texts(folder):
    write(folder, [{"sentence": f"2019-0{n}-01", "label": n % 2} for n in range(1, 9)])
    assert {e.prompt for e in load_task("sst2").held_out()} == {f"2019-0{n}-01 It was" for n in range(1, 9)}


def test_columns_that_later_rows_bring_are_kept(folder):
    write(folder, [{"label": 0}, {"sentence": "a", "label": 1}])
    assert load_task("sst2").source.rows("train")[1]["sentence"] == "a"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"sentence": "café", "label": 1}'.encode("latin-1"), r"line 13 \('utf-8' codec can't decode byte 0xe9"),
        (b"null", r"line 13 \(it is no object of columns and values\)"),
        (b'["a", 1]', r"line 13 \(it is no object"),
        (b'{"sentence": "a", "label": NaN}', r"line 13 \(NaN is no JSON\)"),
        (b'{"sentence": "a", "label": -Infinity}', r"line 13 \(-Infinity is no JSON\)"),
        (b'{"sentence": ' + b"[" * 100_000, r"line 13 \(maximum recursion depth"),
        (b'{"sentence": "a"', r"line 13 \(Expecting"),
        (b'{"sentence": "a", "label": ' + b"9" * 5000 + b"}", r"line 13 \(Exceeds the limit"),
        (b'{"sentence": "a", "label": ' + b"9" * 50 + b"}", "column 'label'"),
        (b'{"sentence": "\\ud800", "label": 1}', "column 'sentence'"),
        (b'{"sentence": ["a"], "label": 1}', "column 'sentence'"),
    ],
)
def test_a_line_that_is_no_row_is_named(folder, line, message):
    write(folder, [*ROWS, line])
    with pytest.raises(
        ValueError, match=rf"validation\.jsonl cannot be read as json, {message}.*; repair or replace it"
    ) as excinfo:
        load_task("sst2").held_out()
    assert len(str(excinfo.value)) < 400 + len(str(folder))


def test_a_file_of_one_null_line(folder):
    write(folder, [b"null"])
    with pytest.raises(ValueError, match=r"json, line 1 \(it is no object"):
        load_task("sst2").held_out()


def test_a_damaged_parquet_file(folder):
    (folder / "sst2").mkdir()
    path = folder / "sst2" / "validation.parquet"
    datasets.Dataset.from_list(ROWS).to_parquet(path)
    whole = path.read_bytes()
    for damaged in (b"", b"PAR1", whole[:-9], whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"validation\.parquet cannot be read as parquet .*; repair or replace it"):
            load_task("sst2").held_out()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\ncafé,1\n".encode("latin-1"), r"csv \('utf-8' codec can't decode byte 0xe9"),
        (b"text,label\na,1\nb\n", r"csv \(row 2 has 1 fields, the first line names 2 columns\)"),
        (b"text,label\na,1,2\n", r"csv \(row 1 has 3 fields"),
        (b"text,label,text\na,1,b\n", r"csv \('text' is there twice\)"),
        (b'text,label\n"a"b,1\n', r"csv after row 0 \(',' expected after '\"'\)"),
        (b'text,label\na,1\n"b,0\n', r"csv after row 1 \(unexpected end of data\)"),
        (b"text,label\n" + b"a" * 200_000 + b",1\n", r"csv after row 0 \(field larger than field limit"),
    ],
)
def test_a_file_of_values_that_is_none(tmp_path, content, message):
    (tmp_path / "my.csv").write_bytes(content)
    refused(lambda: read_rows(tmp_path / "my.csv"), rf"my\.csv cannot be read as {message}.*; repair or replace it\.$")


def test_a_file_of_values_as_other_programs_write_it(tmp_path):
    written = '\ufefftext, label\r\n"one, ""two""\nthree",1\r\n\r\n2019-01-01,0\r\n'
    (tmp_path / "my.csv").write_bytes(written.encode())
    rows = read_rows(tmp_path / "my.csv")
    assert rows[:] == {"text": ['one, "two"\nthree', "2019-01-01"], "label": ["1", "0"]}
    (tmp_path / "my.csv").write_bytes(b"")
    assert len(read_rows(tmp_path / "my.csv")) == 0


def test_a_column_that_is_there_twice(tmp_path):
    (tmp_path / "my.jsonl").write_text('{"text": "a"}\n{"text": "b", "text": "c"}\n')
    refused(lambda: read_rows(tmp_path / "my.jsonl"), r"my\.jsonl cannot be read as json, line 2 \('text' is there twice\)")
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    parquet.write_table(table, tmp_path / "my.parquet")
    refused(lambda: read_rows(tmp_path / "my.parquet"), r"my\.parquet cannot be read as parquet \('text' is there twice\)")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_file_that_is_too_large_or_none(tmp_path, suffix):
    path = tmp_path / f"my.{suffix}"
    path.touch()
    os.truncate(path, 2**31)  # sparse
    refused(lambda: read_rows(path), r"has 2,147,483,648 bytes, where at most 1,073,741,824 are expected")
    path.unlink()
    os.mkfifo(path)
    refused(lambda: read_rows(path), "is not a file with content of its own")
    own = Description(str(path), "{text}", ("a", "b"))
    refused(lambda: load_task(str(own)), "there is no file")


def test_a_row_of_drop_whose_lists_differ_is_named(folder):
    row = {"passage": "p", "question": "q", "answers_spans": {"spans": ["a"], "types": ["span"]}}
    write(folder, [row, row | {"answers_spans": {"spans": ["a", "b"], "types": ["span"]}}], "drop")
    with pytest.raises(ValueError, match=r"row 2 of .*jsonl: DROP needs a type for each span, and there are 2 spans, 1 types"):
        load_task("drop").held_out()


# --- the examples that were drawn


def test_a_digest_tells_examples_apart():
    one = Example("p", ("a", "b"), 0)
    others = [
        [],
        [one],
        [one, one],
        [Example("p", ("a", "b"), 1)],
        [Example("p", ("ab",), 0)],
        [Example("pa", ("b",), 0)],
        [Example("p", ("a", "b"), 0, also=(1,))],
        [Example("p", ("a", "b"), 0, references=(("a",), ("b",)))],
        [Example("p", ("a", "b"), 0, references=(("a", "b"),))],
        [Example("p", ("a\n", "b"), 0), one],
        [one, Example("p", ("a\n", "b"), 0)],
    ]
    digests = [digest(examples) for examples in others]
    assert len(set(digests)) == len(digests)
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in digests)
    assert digest([Example("p", ("a", "b"), 0)]) == digest(iter([one]))


# --- the Hub behind a proxy


class Proxy(BaseHTTPRequestHandler):
    """Answers for every host, with the status that the server says."""

    def do_HEAD(self):
        self.server.requests.append(self.path)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def proxy(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.requests, server.status = [], 200
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://hub.invalid")  # nobody but the proxy knows this name
    close_session()
    yield server
    close_session()
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_hub_is_asked_through_the_proxy(proxy):
    require_hub("a data set", "do without")
    assert proxy.requests == ["http://hub.invalid/"]


@pytest.mark.parametrize("status", [407, 502])
def test_a_proxy_that_refuses(proxy, status):
    proxy.status = status
    with pytest.raises(
        OfflineError, match=rf"a data set is not on .*hub\.invalid cannot be reached \(status {status}\); connect"
    ):
        require_hub("a data set", "do without")


def test_no_proxy_and_no_hub(proxy, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("ZOLAB_DATA", raising=False)
    with pytest.raises(OfflineError, match=r"hub\.invalid cannot be reached \(.+\); connect, or point ZOLAB_DATA"):
        Source("nothing", ("nobody/nothing", None), ("text",)).rows("train")
    assert not proxy.requests
