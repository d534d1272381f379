"""Progress in a log: whole lines, few of them, and messages between them."""

import io

from data_pipelines import progress_bars
from data_pipelines.progress_bars import ProgressBar


def test_a_log_gets_lines_and_no_carriage_returns(capfd, monkeypatch):
    with ProgressBar(total=1000, desc="train") as bar:
        for n in range(1000):
            bar.update()
            bar.set_postfix_str(f"loss {n}", refresh=False)
            if n == 500:
                bar.write("step 500: a message")
    list(ProgressBar(range(3), desc="tiles", leave=False))
    monkeypatch.setattr(progress_bars, "EVERY_S", 0.0)
    list(ProgressBar(range(3), desc="often"))
    out, err = capfd.readouterr()
    assert "\r" not in out + err and out == "step 500: a message\n"
    lines = err.splitlines()
    assert lines[0].startswith("train: 1000/1000 [") and "loss 999" in lines[0]
    assert "tiles" not in err and lines[1].startswith("often: 0/3") and len(lines) >= 4


def test_a_log_that_nobody_reads_any_more_ends_nothing(monkeypatch):
    class Broken(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    monkeypatch.setattr(progress_bars, "EVERY_S", 0.0)
    assert list(ProgressBar(range(3), file=Broken())) == [0, 1, 2]


def test_a_terminal_gets_the_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    list(ProgressBar(range(3), desc="train"))
    assert "\rtrain:" in capsys.readouterr().err
