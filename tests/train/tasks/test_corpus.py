"""Reading and splitting: by file, by name alone, recorded."""

import hashlib
import sysconfig
from pathlib import Path

import pytest

from precis.train.tasks.corpus import read_corpus


def write(folder, count, size=100):
    for i in range(count):
        (folder / f"{i:02}.txt").write_bytes(bytes([i]) * size)


def test_each_file_is_on_one_side(tmp_path):
    write(tmp_path, 30)
    corpus = read_corpus((str(tmp_path / "*.txt"),), 10**6)
    train, held_out = set(corpus.train.tolist()), set(corpus.held_out.tolist())
    assert (len(train), len(held_out)) == (27, 3)
    assert train.isdisjoint(held_out)
    assert len(corpus.train) == 2700


def test_the_split_depends_on_names_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, 30)
    before = read_corpus(("*.txt",), 10**6)
    for file in tmp_path.iterdir():
        file.write_bytes(b"x" + file.read_bytes())
    after = read_corpus(("0*.txt", "*.txt", "[12]*.txt"), 10**6)
    for part in ("train", "eval"):
        assert after.facts[f"{part}_names_sha256"] == before.facts[f"{part}_names_sha256"]
        assert after.facts[f"{part}_bytes_sha256"] != before.facts[f"{part}_bytes_sha256"]


def test_names_do_not_decide_in_their_order(tmp_path):
    write(tmp_path, 30)
    held_out = set(read_corpus((str(tmp_path / "*"),), 10**6).held_out.tolist())
    assert held_out not in ({0, 1, 2}, {27, 28, 29})


def test_facts_are_digests_of_what_was_read(tmp_path):
    write(tmp_path, 12)
    corpus = read_corpus((str(tmp_path / "**"),), 10**6)
    for part, data in (("train", corpus.train), ("eval", corpus.held_out)):
        digest = hashlib.sha256(data.tobytes()).hexdigest()
        assert corpus.facts[f"{part}_bytes_sha256"] == digest
        assert corpus.facts[f"{part}_bytes"] == len(data)
    assert corpus.facts["split"] == "by file"
    assert (corpus.facts["train_files"], corpus.facts["eval_files"]) == (11, 1)


def test_no_more_is_read_than_asked_for(tmp_path):
    write(tmp_path, 30)
    corpus = read_corpus((str(tmp_path / "*"),), 1050)
    assert len(corpus.train) + len(corpus.held_out) == 1050


def test_one_file_is_split_by_place(tmp_path):
    (tmp_path / "one.txt").write_bytes(bytes(range(200)))
    corpus = read_corpus((str(tmp_path / "one.txt"),), 10**6)
    assert corpus.train.tolist() == list(range(180))
    assert corpus.held_out.tolist() == list(range(180, 200))
    assert corpus.facts["split"] == "the end of the one file"


def test_nothing_found_says_where_it_looked(tmp_path):
    with pytest.raises(ValueError, match=r"no file matches nowhere/\*\.txt \(relative globs"):
        read_corpus(("nowhere/*.txt",), 10**6)


def test_by_default_the_standard_library_without_packages_and_tests():
    corpus = read_corpus(None, 2_000_000)
    text = corpus.train.tobytes() + corpus.held_out.tobytes()
    assert len(text) == 2_000_000
    assert corpus.facts["source"].startswith("the standard library of Python 3.")
    root = Path(sysconfig.get_path("stdlib"))
    tests = (root / "unittest" / "case.py").read_bytes()
    # Everything there is would be read with a limit this high; others' code and tests would too.
    everything = read_corpus(None, 10**9)
    whole = everything.train.tobytes() + everything.held_out.tobytes()
    assert tests in whole
    other = (Path(pytest.__file__)).read_bytes()
    assert other not in whole
