"""Techniques and tasks of finetuning: data, measures, LoRA in a body, the resumable experiment."""

import copy
import json

import pytest
import torch
from experiments import load_experiment

import kt_core as kt
from kt_core.corpora.paths import data_dir
from kt_course.chapters.finetuning_techniques import solutions, tasks
from kt_course.chapters.finetuning_techniques.figures import TechniqueTable, mean_and_interval
from kt_course.chapters.finetuning_techniques.techniques import (
    TECHNIQUES,
    add_lora,
    ask,
    chosen_rate,
    measure,
    merge_all,
    retained,
    rows_of,
    shares,
    switch,
    tune,
)

experiment = load_experiment("finetuning_techniques")
VOCAB = kt.load_corpus("bios").vocab
SIZES = dict(n_train=8, n_dev=3, n_lines=6, n_texts=8, n_test=4)


def body(n_layer=2):
    torch.manual_seed(0)
    return kt.GPT(kt.GPTConfig(len(VOCAB), 128, n_layer, 2, 16, "rope", dropout=0.0)).eval()


def region_rows(n=8):
    labelled, _, test = tasks.split_people(1, n, 2)
    return tasks.region_rows(VOCAB, labelled, [place for _, place in labelled]), test


# ---------------------------------------------------------------- tasks


def test_people_who_choose_and_people_who_test_are_not_labelled():
    parts = [{text for text, _ in part} for part in tasks.split_people(3, 200, 100)]
    assert [len(part) for part in parts] == [200, 100, 150]
    assert len(set.union(*parts)) == 450
    assert {text for text, _ in tasks.split_people(4, 200, 100)[0]} != parts[0]


def test_regions():
    names = [tasks.REGIONS[tasks.region_of(city)] for city in ("Leeds", "Boston", "Oslo", "Lima")]
    assert names == list(tasks.REGIONS)
    assert tasks.region_of("no city") == 3
    cities = tasks.world()[1]
    assert {tasks.region_of(city) for city in cities} == {0, 1, 2, 3}
    countries = {*tasks.BRITISH, *tasks.AMERICAN, *tasks.EUROPEAN}
    assert countries - set(cities.values()) <= {"Romania", "Russia"}


def test_a_region_row_is_question_answer_and_the_region_of_the_true_place():
    rows = tasks.region_rows(VOCAB, [("Where was Ann born?", "Oslo")], ["Lima"])
    ids, target = rows[0]
    assert VOCAB.decode(ids) == "Where was Ann born?⁇Lima⁇" and target == 2


def test_tags_and_entities_of_a_line():
    text, tags = tasks.tagged_line("Al J. Roe", "Al J. Roe. He was born in New York. He died.")
    assert text == "He was born in New York. Al J. Roe died."
    words = tasks.word_tags(text, tags)
    predictions = {(text[a:b], tag) for a, b, tag in tasks.entities(text, words)}
    assert predictions == {("New York", 2), ("Al J. Roe", 1)}
    assert tasks.tagged_line("Al", "Al. Born in Rome.") is None
    rows = tasks.tag_rows(VOCAB, [(text, tags)])
    assert [t for t in rows[0][1] if t >= 0] == words


def test_span_texts_hold_their_answer_and_another_city():
    examples = tasks.span_task("train", 20, 1)
    assert len(examples) == 20 and examples == tasks.span_task("train", 20, 1)
    for text, start, end in examples:
        assert len(text) <= tasks.MAX_TEXT
        assert text[start : end + 1] in tasks.world()[1]
        assert len({m[0] for m in tasks.place_pattern().finditer(text)}) > 1


def test_f1():
    assert tasks.f1_score([{(0, 2, 1)}], [{(0, 2, 1)}]) == 1
    assert tasks.f1_score([{(0, 2, 1), (3, 4, 2)}], [{(0, 2, 1)}]) == pytest.approx(2 / 3)
    assert tasks.f1_score([set()], [set()]) == 0


def test_batches_pad_ids_with_0_and_targets_with_minus_1():
    rows = [([5, 6, 7], [0, 1, -1]), ([5], [2])]
    ids, targets = tasks.Rows(rows).stack(rows)
    assert ids.tolist() == [[5, 6, 7], [5, 0, 0]]
    assert targets.tolist() == [[0, 1, -1], [2, -1, -1]]
    assert len(tasks.batch_list(region_rows()[0], 5, 3, 0)) == 5


def test_the_ngram_baselines_learn_something():
    examples = [tasks.tagging_task(split, 20, 1) for split in ("train", "test")]
    assert tasks.ngram_tagging(*examples) > 0.5
    texts = [tasks.span_task(split, 40, 1) for split in ("train", "test")]
    assert tasks.ngram_spans(*texts) > 0.3


# ---------------------------------------------------------------- techniques


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_technique_leaves_the_body_that_it_was_given(name):
    model, technique = body(), TECHNIQUES[name]
    before = copy.deepcopy(model.state_dict())
    tuned, layers = tune(technique, model, region_rows()[0], rate=1e-2, seed=1, steps=2)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert bool(layers) == technique.has_lora and not tuned.training
    after = tuned.body.state_dict()
    moved = any(key in after and not torch.equal(after[key], before[key]) for key in before)
    assert moved == (name not in ("frozen", "lora"))


def test_lora_in_a_body_can_be_switched_off_and_merged():
    model = solutions.Classifier(body(), 4)
    ids = torch.tensor([[4, 5, 6]])
    plain = model.body.hidden(ids)
    layers = add_lora(model, rank=2, alpha=4.0)
    assert len(layers) == 12
    assert torch.allclose(model.body.hidden(ids), plain), "B is 0"
    for layer in layers:
        torch.nn.init.normal_(layer.up)
    changed = model.body.hidden(ids)
    assert not torch.allclose(changed, plain, atol=1e-3)
    switch(layers, False)
    assert torch.allclose(model.body.hidden(ids), plain)
    switch(layers, True)
    merge_all(model.body)
    assert torch.allclose(model.body.hidden(ids), changed, atol=1e-4)
    assert not any(isinstance(m, solutions.LoRALinear) for m in model.modules())


def test_our_lora_is_pefts():
    peft = pytest.importorskip("peft")
    model, config = body(), peft.LoraConfig(r=4, lora_alpha=8, target_modules=["up"])
    theirs = peft.get_peft_model(copy.deepcopy(model), config).base_model.model
    other = theirs.blocks[1].mlp.up
    ours = solutions.LoRALinear(copy.deepcopy(model.blocks[1].mlp.up), 4, 8.0)
    ours.down.data = other.lora_A["default"].weight.data
    other.lora_B["default"].weight.data = ours.up.data = torch.randn(64, 4)
    x = torch.randn(2, 3, 16)
    assert torch.allclose(ours(x), other(x), atol=1e-5)


def test_retained_counts_of_what_was_known():
    gold = ["Rome", "Oslo", "Bern", "Riga"]
    score = retained(["Rome ", "Oslo", "x", "Riga"], ["Rome", "x", "Bern", "Riga "], gold)
    assert (score.correct, score.total) == (2, 3)
    assert retained(["x"], ["Rome"], ["Rome"]).total == 0


def test_a_frozen_body_keeps_everything_and_answers_as_before():
    model, (rows, test) = body(), region_rows()
    tuned, layers = tune(TECHNIQUES["frozen"], model, rows, rate=0.1, seed=1, steps=2)
    counts = measure(tuned, layers, VOCAB, test, ask(model, VOCAB, test))
    assert counts["kept"] == counts["known"] and counts["alone"] == counts["assisted"]
    assert counts["total"] == len(test)


# ---------------------------------------------------------------- the table


def test_the_rate_is_devs_and_the_smaller_of_equals():
    rows = [dict(technique="a", rate=r, alone=n) for r, n in ((1, 5), (3, 9), (2, 9))]
    assert chosen_rate(rows, "a") == 2
    with pytest.raises(ValueError, match="no row of technique 'b'"):
        chosen_rate(rows, "b")
    rows = [dict(text="question", rate=r, correct=n) for r, n in ((1, 5), (3, 9))]
    assert chosen_rate(rows, "question", "text", "correct") == 3


def run(table=None, save=lambda table: None):
    names = ("frozen", "all")
    return experiment.Experiment(body(), VOCAB, table, save, SIZES, steps=1).run((1, 2), names)


def without_seconds(table):
    lists = [table[part] for part in experiment.LISTS]
    return [[{k: v for k, v in row.items() if k != "seconds"} for row in rows] for rows in lists]


def test_an_interrupted_experiment_is_resumed():
    tables = []
    table = run(save=lambda t: tables.append(json.loads(json.dumps(t))))
    assert [len(table[part]) for part in experiment.LISTS] == [6, 10, 8, 8, 0, 0, 2, 1, 4]
    assert {row["seed"] for row in table["choosing"]} == {0}
    rows = table["rows"]
    assert {r["rate"] for r in rows if r["technique"] == "all"} == set(TECHNIQUES["all"].rates)
    again = []
    more = run(tables[-4], again.append)
    assert len(again) == 3 and without_seconds(more) == without_seconds(table)


def test_minilm_is_finetuned_on_as_many_examples_as_the_body():
    transformers = pytest.importorskip("transformers")
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] where was born ? london".split()
    reader = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    encoder = transformers.BertModel(transformers.BertConfig(vocab_size=len(words), **sizes))
    before = copy.deepcopy(encoder.state_dict())
    arguments = dict(sizes=SIZES, steps=2, minilm=(reader, encoder.eval()))
    trial = experiment.Experiment(body(), VOCAB, **arguments)
    for seed in (0, 1, 2):
        trial.run_minilm(seed)
    chosen, tuned = trial.table["choosing_minilm"], trial.table["tuned_minilm"]
    texts, rates = ("question", "answer"), experiment.MINILM_RATES
    keys = {(row["text"], row["rate"], row["seed"], row["total"]) for row in chosen}
    assert keys == {(text, rate, 0, 3) for text in texts for rate in rates}, "three people of dev"
    best = {text: chosen_rate(chosen, text, "text", "correct") for text in texts}
    keys = {(row["text"], row["rate"], row["seed"], row["total"]) for row in tuned}
    n_test = len(tasks.split_people(1, 8, 3)[2])
    assert keys == {(text, best[text], seed, n_test) for text in texts for seed in (1, 2)}
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    texts = list(trial.region_texts(1)["question"][2])
    classifier = experiment.SentenceClassifier(encoder, 4).eval()
    ids = [(each, 0) for each in reader(texts[:2] + ["london"])["input_ids"]]
    together, alone = tasks.logits_of(classifier, ids), tasks.logits_of(classifier, ids[2:])
    assert torch.allclose(together[2], alone[0], atol=1e-5), "padding is not averaged"


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="seed 0 chooses the rates"):
        experiment.Experiment(body(), VOCAB, sizes=SIZES, steps=1).run((0, 1))
    with pytest.raises(SystemExit):
        experiment.main(["--out", "x.json", "--seeds", "0"])


def test_an_interval_is_cut_at_0_and_100():
    assert mean_and_interval([0.9, 1.0]) == "95 [31, 100]"
    assert mean_and_interval([0.5, 0.5]) == "50 [50, 50]"


def shipped_table():
    return json.loads((data_dir() / "results" / "finetuning.json").read_text(encoding="utf-8"))


def test_the_shipped_table_is_complete():
    table = shipped_table()
    assert len(table["seeds"]) == 5 and table["hardware"] and table["body_sha256"]
    for name in TECHNIQUES:
        assert [row["seed"] for row in rows_of(table, name)] == table["seeds"]
    assert all(row["kept"] == row["known"] for row in rows_of(table, "frozen"))
    assert all(row["kept_off"] == row["known"] for row in rows_of(table, "lora"))
    assert len(TechniqueTable(table).rows) == len(TECHNIQUES)
    for rate in TECHNIQUES["all"].rates:
        assert len(shares(rows_of(table, "all", rate), "alone")) == 5
    assert len(table["tasks"]) == 20 and len(table["baselines"]) == 5
    for text in ("question", "answer"):
        rate = chosen_rate(table["choosing_minilm"], text, "text", "correct")
        rows = [r for r in table["tuned_minilm"] if (r["text"], r["rate"]) == (text, rate)]
        assert [row["seed"] for row in rows] == table["seeds"]
