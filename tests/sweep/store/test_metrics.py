from precis.sweep.store.metrics import append_rows, cut_rows, read_rows

ROWS = [{"step": step, "loss": 0.1 * step} for step in (10, 20, 20, 30)]


def test_cutting_gives_the_bytes_of_a_shorter_file(tmp_path):
    whole, short = tmp_path / "whole", tmp_path / "short"
    append_rows(whole, ROWS)
    append_rows(short, ROWS[:3])
    assert cut_rows(whole, after=25) == ROWS[:3]
    assert whole.read_bytes() == short.read_bytes()


def test_a_row_that_was_cut_off_does_not_count(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_rows(path, ROWS)
    path.write_bytes(path.read_bytes()[:-5])
    assert read_rows(path) == ROWS[:3]
    assert cut_rows(path, after=30) == ROWS[:3]


def test_no_file_means_no_rows(tmp_path):
    assert read_rows(tmp_path / "none") == []
