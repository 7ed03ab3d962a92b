"""No file names a path that exists only on one machine."""

import re

FORBIDDEN = re.compile(r"(?<![\w.~/-])/(home|root|mnt|Users)[/_.]")
BINARY = {".safetensors", ".parquet", ".png"}
HERE = "test_wording.py"


def test_no_file_names_a_path_of_one_machine(root, files):
    found = {}
    for path in files:
        if path.suffix in BINARY or path.name in (HERE, "tokenizer.json"):
            continue
        hits = FORBIDDEN.findall((root / path).read_text(encoding="utf-8"))
        if hits:
            found[str(path)] = hits
    assert found == {}


def test_the_pattern_would_notice():
    assert FORBIDDEN.search("cd /" + "home/me")
    for text in ("https://a.b/home/x", "~/root/x", "./mnt/x"):
        assert not FORBIDDEN.search(text)


def test_every_text_ends_with_a_line_break(root, files):
    for path in files:
        if path.suffix in {".py", ".md", ".toml", ".txt"}:
            data = (root / path).read_bytes()
            assert not data or (data.endswith(b"\n") and b"\r" not in data), path
