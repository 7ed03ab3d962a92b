"""The page: self-contained, safe against names, and shown in a browser where there is one."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from attrs import evolve
from matplotlib.figure import Figure
from matplotlib.image import imread
from toolkit.bench.report import render, write
from toolkit.bench.results import Results
from toolkit.bench.store import Store

from toolkit import Pipeline, Registry, ToolkitError, run_record
from toolkit.conformance.models import tiny
from toolkit.records import Out

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture
def page(invented, tmp_path):
    results = invented({"ar": 50.0, "chain <b>bold</b>": 60.0}, settings=((256, 32), (256, 64)))
    return write(results, tmp_path / "report")


class Links(HTMLParser):
    """Everything that a page would load."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "srcset", "href")]


@pytest.mark.installed
def test_the_page_loads_nothing(page):
    text = page.read_text(encoding="utf-8")
    links = Links()
    links.feed(text)
    assert len(links.found) == 2 * text.count("<figure>") == 2 * 5
    assert all(link.startswith("data:image/svg+xml;base64,") for link in links.found)
    assert "<script" not in text
    assert not re.search(r"@import|url\(", text)


def test_names_cannot_break_the_page(page):
    text = page.read_text(encoding="utf-8")
    assert "<b>bold" not in text
    assert "chain &lt;b&gt;bold&lt;/b&gt;" in text


def test_a_dollar_in_a_name_is_no_formula(invented, tmp_path):
    page = write(invented({"ar": 50.0, r"$\frac$ $x$": 60.0}), tmp_path / "report")
    assert r"$\frac$ $x$" in page.read_text(encoding="utf-8")


def test_every_figure_names_the_machine(invented, tmp_path, monkeypatch):
    """A figure that is copied out of the page says what it was measured on."""
    said = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: said.append(self.get_suptitle()))
    write(invented({"ar": 50.0, "chain": 60.0}), tmp_path / "report")
    assert len(said) > 3
    assert all("A Good CPU" in text and "avx2 in our kernels" in text for text in said)


def test_figures_lie_beside_the_page(page):
    names = {path.name for path in page.parent.iterdir()}
    for figure in ("speedup", "prompts", "lengths", "depth", "time_split"):
        for theme in ("", "-dark"):
            assert {f"{figure}{theme}.png", f"{figure}{theme}.svg"} <= names
    assert imread(page.parent / "speedup.png").shape[1] > 1000


def test_the_page_says_what_it_must(page, invented):
    text = page.read_text(encoding="utf-8")
    machine = "A Good CPU, CPU threads: 1, instruction set: avx2 in our kernels, AVX2 in PyTorch"
    load = "other processes used 1 % of the CPU while this ran."
    found = ("(AR): 24 exact.", 'class="banner good"')
    for words in (*found, "includes 1", "allows", "torch_isa", "arms = []", machine, load):
        assert words in text
    results = invented({"ar": 50.0, "bad": 90.0})
    rows = [
        row | {"verdict": "divergent" if row["arm"] == "bad" else None} for row in results.requests
    ]
    bad = render(evolve(results, requests=rows), [])
    assert "(AR): 12 divergent." in bad
    assert "DIVERGENT: outputs that are not AR&#39;s: 12, of bad." in bad
    assert 'class="banner bad"' in bad
    assert ">faster<" not in bad


def test_a_divergent_row_is_never_green(invented):
    """Also a lossy arm's, whose speed may be quoted, and which is marked."""
    results = invented({"ar": 50.0, "typical": 90.0})
    runs = [run | {"lossless": run["arm"] == "ar"} for run in results.runs]
    verdicts = {"ar": None, "typical": "divergent"}
    rows = [row | {"verdict": verdicts[row["arm"]]} for row in results.requests]
    text = render(Results(runs, rows), [])
    assert "typical (lossy): 12 of 12 outputs are not AR&#39;s." in text
    assert '<td class="">faster</td>' in text
    assert 'class="good"' not in text
    assert 'class="banner "' in text
    assert text.count("typical (lossy)</td>") == 2  # in the results and among the arms


def test_loops_are_told(invented):
    results = invented({"ar": 50.0, "chain": 60.0}, distinct_3grams=0.2)
    assert "The output repeats itself" in render(results, [])


def test_the_report_is_of_the_parquet_alone(invented, toolkit, tmp_path):
    """Rows that nobody measured, written and read back, give a page."""
    results = invented({"ar": 50.0, "chain": 60.0})
    store = Store.new(tmp_path / "r")
    for table in ("runs", "requests"):
        for number, row in enumerate(getattr(results, table)):
            store.write(table, number, [row])
    done = toolkit("report", tmp_path / "r")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "r" / "report" / "index.html").read_text(encoding="utf-8")
    assert results.ratio("chain", results.settings[0]).text in text
    assert toolkit("report", tmp_path / "r", "--out", tmp_path / "else").exit_code == 0
    assert (tmp_path / "else" / "index.html").is_file()


def test_nothing_to_report_is_an_error(invented, tmp_path):
    with pytest.raises(ToolkitError, match="nothing to report yet"):
        write(evolve(invented({"ar": 50.0}), requests=[]), tmp_path / "r")


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_a_folder_without_results_is_an_error(toolkit, tmp_path, folder):
    (tmp_path / "empty").mkdir()
    done = toolkit("report", tmp_path / folder)
    assert done.exit_code == 2
    assert "results" in done.output


PROBE = """<script>
addEventListener("load", () => { document.title = JSON.stringify({
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
  images: [...document.images].map(i => i.naturalWidth),
  dark_images: [...document.images].filter(i => i.currentSrc !== i.src).length,
  wide: document.documentElement.scrollWidth > innerWidth,
  loaded: performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length,
}); });
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt install chromium")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_shows_it(page, tmp_path, theme):
    """Every figure is there in the page's own colours, nothing is fetched, nothing hangs out."""
    probed = tmp_path / "probed.html"
    text = page.read_text(encoding="utf-8")
    probed.write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    options = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu",
        f"--window-size={1000 if theme == 'dark' else 500},900",  # a phone shows it as well
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=4000",
        f"--blink-settings=preferredColorScheme={0 if theme == 'dark' else 1}",
    ]  # fmt: skip
    dom = subprocess.run(
        [*options, "--dump-dom", probed.as_uri()], capture_output=True, text=True, timeout=120
    ).stdout
    seen = re.search(r"<title>(\{.*?\})</title>", dom)
    assert seen, dom[:500]
    found = json.loads(seen[1])
    assert found["dark"] == (theme == "dark")
    assert len(found["images"]) == 5
    assert min(found["images"]) > 300
    assert found["dark_images"] == (5 if theme == "dark" else 0)
    assert not found["wide"]
    assert found["loaded"] == 0
    shot = tmp_path / "shot.png"
    subprocess.run(
        [*options, f"--screenshot={shot}", page.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    )
    corner = imread(shot)[3, 3, :3].mean()
    assert corner < 0.2 if theme == "dark" else corner > 0.9


def test_a_page_of_the_recorded_trees_is_linked(invented, tmp_path, monkeypatch):
    """Only where nodes were recorded."""
    monkeypatch.setattr("toolkit.bench.report._draw", lambda results, folder: [])
    pipeline = Pipeline(tiny("llama", 1), registry=Registry.installed())
    recorded = tmp_path / "recorded"
    generation = pipeline.generate([5, 9], max_new_tokens=4, record_nodes=True)
    Out.at(recorded).write(run_record(pipeline), [generation])
    for name, linked in (("with", True), ("without", False)):
        page = write(invented({"ar": 50.0}), tmp_path / name, recorded)
        assert ('href="trees.html"' in page.read_text(encoding="utf-8")) is linked
        assert page.with_name("trees.html").exists() is linked
        shutil.rmtree(recorded / "nodes", ignore_errors=True)
