"""Requests to stop: one that arrives twice is one, and a person may insist."""

import signal

import pytest

from precis.sweep import signals


def test_one_request_that_arrives_twice_is_one():
    with signals.stop_requests(insist=True) as asked:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            signal.raise_signal(number)
        assert asked.is_set()


def test_a_second_ctrl_c_after_a_while_insists(monkeypatch):
    monkeypatch.setattr(signals, "_AGAIN_S", -1.0)
    with signals.stop_requests(insist=True) as asked:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert asked.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_worker_never_insists(monkeypatch):
    monkeypatch.setattr(signals, "_AGAIN_S", -1.0)
    with signals.stop_requests(insist=False) as asked:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert asked.is_set()
