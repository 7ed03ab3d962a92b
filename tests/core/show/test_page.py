"""The page: one file, equal for equal rows, in which recorded text cannot run; tried in a browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from toolkit import ToolkitError
from toolkit.show import page
from toolkit.show.notebook import draw_output
from toolkit.show.page import draw_page

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


class Elements(HTMLParser):
    """The tags of a page with their attributes, and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self._in = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        self._in = tag == "script"

    def handle_endtag(self, tag):
        self._in = False

    def handle_data(self, data):
        if self._in:
            self.scripts[-1] += data


def test_the_same_rows_give_the_same_bytes(recording):
    assert draw_page(recording) == draw_page(list(recording))


def test_nothing_comes_from_elsewhere(recording):
    found = Elements(draw_page(recording))
    assert not [tag for tag, attrs in found.tags if {"src", "srcset"} & set(attrs) or tag == "link"]
    text = draw_page(recording).replace("http://www.w3.org/2000/svg", "")
    assert "://" not in text
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", text)


def test_a_script_in_the_text_stays_text(recording):
    found = Elements(draw_page(recording))
    assert len(found.scripts) == 2
    data = json.loads(found.scripts[0])
    assert "</script><script>boom()</script>" in data["pieces"]
    assert "boom" not in found.scripts[1]


def test_the_data_is_that_of_the_rows(recording):
    data = json.loads(Elements(draw_page(recording)).scripts[0])
    assert [request["number"] for request in data["requests"]] == [0, 3]
    for request, drawn in zip(recording, data["requests"], strict=True):
        for step, columns in zip(request.steps, drawn["steps"], strict=True):
            assert columns["token"] == [node.token for node in step.nodes]
            assert [data["fates"][f]["name"] for f in columns["fate"]] == [n.fate for n in step.nodes]
            assert [data["pieces"][p] for p in columns["piece"]] == [n.piece for n in step.nodes]
            assert columns["p"][1:] == pytest.approx(
                [n.target_logprob for n in step.nodes[1:]], abs=1e-4
            )


def test_too_many_nodes_are_refused_unless_one_request_is_chosen(recording, monkeypatch):
    monkeypatch.setattr(page, "MOST_NODES", 30)
    with pytest.raises(ToolkitError, match="--request"):
        draw_page(recording)
    assert draw_page(recording[:1])


PROBE = """
<script>
const said = [];
const say = (name, value) => said.push(`${name}=${value}`);
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
const at = () => document.querySelector(".about").textContent.split(" ")[1];
document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
say("key", at());
const slider = document.querySelector("input[type=range]");
slider.value = 4; slider.dispatchEvent(new Event("input"));
say("slider", at());
const node = document.querySelector(".canvas [data-node='2']");
node.dispatchEvent(new MouseEvent("click", {bubbles: true}));
say("hash", location.hash);
say("node", document.querySelector(".node dd").textContent);
say("labels", document.querySelectorAll(".canvas g[tabindex][aria-label]").length);
const search = document.querySelector("[type=search]");
search.value = "w"; search.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"}));
say("found", document.querySelector(".node dd").textContent.includes("w"));
document.getElementById("compare").click();
say("panes", document.querySelectorAll(".pane").length);
say("boom", window.boomed === undefined);
say("text", document.querySelector(".text").textContent.includes("<" + "/script>"));
say("wide", document.documentElement.scrollWidth <= window.innerWidth);
document.body.insertAdjacentHTML("beforeend", `<pre id="said">${said.join("\\n")}</pre>`);
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="no browser here")
def test_the_page_works_in_a_browser(recording, tmp_path):
    """Slider, keys, address, node panel and comparison, without an error on the console, at 400 px; a
    notebook's frame, too."""
    text = draw_page(recording)
    frame = draw_output([], "", recording[1])
    first = "<script>window.boom = () => { window.boomed = true; };</script>"
    file = tmp_path / "page.html"
    text = text.replace("<body>", "<body>" + first).replace("</body>", frame + PROBE + "</body>")
    file.write_text(text)
    done = subprocess.run(
        [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=500,900",
         "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         file.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    said = dict(
        line.partition("=")[::2]
        for line in re.findall(r'<pre id="said">(.*?)</pre>', done.stdout, re.S)[-1].splitlines()
    )
    step = recording[0].steps[4]
    assert said["key"] == "1"
    assert said["slider"] == "4"
    assert said["hash"] == "#request=0&amp;step=4&amp;node=2"
    assert f"(id {step.nodes[2].token})" in said["node"]
    assert said["labels"] == str(len(step.nodes))
    assert said["found"] == "true"
    assert said["panes"] == "2"
    assert (said["boom"], said["wide"]) == ("true", "true")
    assert "CONSOLE" not in done.stderr
