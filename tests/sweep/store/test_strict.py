import json

import pytest

from precis.sweep.store.strict import canonical, read_json, write_json


@pytest.mark.parametrize(
    ("value", "text"),
    [(float("nan"), '"NaN"'), (float("inf"), '"Infinity"'), (-float("inf"), '"-Infinity"')],
)
def test_non_finite_floats_are_words(value, text):
    assert canonical({"a": [value, 1.5]}) == f'{{"a":[{text},1.5]}}'


def test_files_are_whole_and_nothing_is_left_over(tmp_path):
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"a": 0.1, "b": float("nan")})
    assert json.loads(path.read_text()) == {"a": 0.1, "b": "NaN"}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("text", [None, "", "{", "[1]"])
def test_what_is_no_object_reads_as_empty(tmp_path, text):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    assert read_json(path) == {}
