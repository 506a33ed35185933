"""A GPT as a classifier: what is read, what is trained, how fast, and what stays as it was."""

import copy

import pytest
import torch

import kt_core as kt
from kt_course.chapters.finetuning_techniques.classify import (
    LINEAR,
    Classifier,
    LabelledData,
    add_lora,
    depth,
    encode,
    encode_rows,
    features,
    finetune,
    layer_rates,
    low_rank,
    n_trained,
    pool,
    predict,
    retained,
    train_top,
)
from kt_course.chapters.finetuning_techniques.sentiment import Sentence, sentences

VOCAB = kt.CharVocab.from_documents(
    [s.text for s in sentences(60)] + ["abcdefghijklmnopqrstuvwxyz."]
)
FROZEN_HEAD = ("body.head.weight",)


def body(variant="rope", n_layer=2, seed=0, dropout=0.0):
    torch.manual_seed(seed)
    config = kt.GPTConfig(len(VOCAB), 32, n_layer, 2, 16, variant, bottleneck=16, dropout=dropout)
    model = kt.GPT(config).eval()
    for p in model.parameters():  # every part counts
        p.data = p.data + 0.1 * torch.randn_like(p)
    return model


def values(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def moved(module, before):
    return {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}


def config(**more):
    usual = dict(
        steps=4,
        batch_size=6,
        learning_rate=1e-2,
        schedule="constant",
        weight_decay=0.0,
        device="cpu",
    )
    return kt.TrainConfig(**usual | more)


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("variant", ["vanilla", "rope", "perceiver", "perceiver_ar"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_texts_vector_does_not_depend_on_its_neighbours(variant, pooling):
    tuned = Classifier(body(variant), pooling)
    texts = ["a.", "what a dull tea.", "fine soup."]
    together = features(tuned, VOCAB, texts)
    alone = torch.cat([features(tuned, VOCAB, [text]) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_last_is_what_the_bodys_own_head_reads():
    tuned = Classifier(body())
    idx = encode(VOCAB, ["fine soup."])
    logits, _ = tuned.body(idx)
    torch.testing.assert_close(tuned.body.head(tuned.features(idx)), logits[:, -1])


def test_a_sign_stands_behind_each_text_and_then_padding():
    idx = encode(VOCAB, ["abc", "a"])
    assert idx.tolist() == [[*VOCAB.encode("abc"), 1], [*VOCAB.encode("a"), 1, 0, 0]]


def test_pool_by_hand():
    hidden = torch.arange(12.0).view(2, 3, 2)
    idx = torch.tensor([[5, 6, 0], [7, 8, 9]])
    assert pool(hidden, idx).tolist() == [[2, 3], [10, 11]]
    assert pool(hidden, idx, "mean").tolist() == [[1, 2], [8, 9]]


def test_predictions_come_in_the_order_of_the_texts():
    tuned = Classifier(body())
    texts = [s.text for s in sentences(30, seed=2)]
    x = features(tuned, VOCAB, texts)
    away = x @ (x[0] - x[1])
    tuned.head.weight.data = torch.stack([0 * x[0], x[0] - x[1]])
    tuned.head.bias.data = torch.tensor(
        [away.sort().values[14:16].mean().item(), 0.0]
    )  # half on either side
    result = predict(tuned, VOCAB, texts)
    assert result == [predict(tuned, VOCAB, [text])[0] for text in texts]
    assert set(result) == {0, 1}, "else their order would not show"
    assert predict(tuned, VOCAB, []) == []


def test_features_are_computed_without_dropout_and_leave_the_mode():
    tuned = Classifier(body(dropout=0.5)).train()
    assert torch.equal(features(tuned, VOCAB, ["fine."]), features(tuned, VOCAB, ["fine."])), (
        "dropout is off"
    )
    assert tuned.training


def test_the_heads_draw_depends_on_its_seed_alone():
    model = body()
    state = torch.get_rng_state()
    first, again, other = (Classifier(model, seed=seed).head.weight for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------- what is trained


def test_every_parameter_has_a_depth():
    tuned = Classifier(body("vanilla", 3))
    result = {name: depth(name, 3) for name in values(tuned)}
    assert {result[n] for n in ("body.tok_emb.weight", "body.pos_emb")} == {0}
    assert {
        result[n] for n in ("body.ln_f.weight", "body.ln_f.bias", "head.weight", "head.bias")
    } == {4}
    for i in range(3):
        assert {d for n, d in result.items() if n.startswith(f"body.blocks.{i}.")} == {i + 1}
    assert [n for n, d in result.items() if d == -1] == ["body.head.weight"]


@pytest.mark.parametrize("n", range(4))
def test_a_fit_moves_exactly_what_is_left_trained(n):
    tuned = Classifier(body())
    assert (
        train_top(tuned, n)
        == n_trained(tuned)
        == sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    )
    before = values(tuned)
    finetune(tuned, VOCAB, sentences(24), config(weight_decay=0.1))
    blocks = {f"body.blocks.{i}." for i in range(2 - min(n, 2), 2)}
    may = {
        name
        for name in before
        if name.startswith(("head.", *blocks))
        or (n and "ln_f" in name)
        or (n == 3 and "tok_emb" in name)
    }
    assert moved(tuned, before) == may


def test_the_number_of_values_by_hand():
    tuned = Classifier(body("rope", 2))  # 16 channels
    block = 4 * (16 * 16 + 16) + (16 * 64 + 64) + (64 * 16 + 16) + 2 * 2 * 16
    assert [train_top(tuned, n) for n in range(4)] == [
        34,
        34 + 32 + block,
        34 + 32 + 2 * block,
        34 + 32 + 2 * block + 16 * len(VOCAB),
    ]


@pytest.mark.parametrize("n", [-1, 4])
def test_train_top_refuses_what_is_not_there(n):
    with pytest.raises(ValueError, match=rf"0 .the head alone. \.\.\. 3 .everything., not {n}"):
        train_top(Classifier(body()), n)


def test_rates_fall_by_a_factor_a_layer():
    tuned = Classifier(body("vanilla"))
    rate = {id(p): g["lr"] for g in layer_rates(tuned, 8.0, 2.0) for p in g["params"]}
    rates = {name: rate[id(p)] for name, p in tuned.named_parameters() if id(p) in rate}
    assert rates["head.bias"] == rates["body.ln_f.weight"] == 8
    assert rates["body.blocks.1.attn.query.weight"] == rates["body.blocks.1.mlp.up.bias"] == 4
    assert (
        rates["body.blocks.0.ln1.weight"] == 2
        and rates["body.pos_emb"] == rates["body.tok_emb.weight"] == 1
    )
    assert set(values(tuned)) - set(rates) == set(FROZEN_HEAD)
    assert len({g["lr"] for g in layer_rates(tuned, 8.0, 1.0)}) == 1
    with pytest.raises(ValueError, match="factor must be above 0"):
        layer_rates(tuned, 1.0, 0.0)


def test_a_thawed_own_head_is_in_no_group():
    tuned = Classifier(body())
    tuned.body.head.weight.requires_grad = True
    assert id(tuned.body.head.weight) not in {
        id(p) for g in layer_rates(tuned, 1.0) for p in g["params"]
    }


def test_a_factor_reaches_the_weights():
    """Adam's first step moves every value by its rate."""
    tuned = Classifier(body())
    before = values(tuned)
    finetune(
        tuned, VOCAB, sentences(6), config(steps=1, learning_rate=0.01, grad_clip=1e9), factor=10.0
    )
    step = {name: (p - before[name]).abs().median().item() for name, p in tuned.named_parameters()}
    assert step["head.weight"] == pytest.approx(1e-2, rel=0.05)
    assert step["body.blocks.1.mlp.up.weight"] == pytest.approx(1e-3, rel=0.05)
    assert step["body.blocks.0.mlp.up.weight"] == pytest.approx(1e-4, rel=0.05)


# ---------------------------------------------------------------- LoRA


@pytest.fixture
def lora():
    """(classifier, peft's model, the body before) with low-rank parts that are not 0."""
    pytest.importorskip("peft")
    model = body()
    before = copy.deepcopy(model)
    tuned = Classifier(model)
    adapter = add_lora(tuned, rank=3, alpha=6.0)
    for name, p in tuned.body.named_parameters():
        if "lora_B" in name:
            p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name)))
    return tuned, adapter, before


IDX = torch.tensor([[3, 4, 5, 6, 1], [7, 8, 1, 0, 0]])


def test_lora_starts_at_the_body_itself():
    pytest.importorskip("peft")
    model = body()
    expected, _ = model(IDX)
    add_lora(Classifier(model))
    torch.testing.assert_close(model(IDX)[0], expected, atol=0, rtol=0)


def test_lora_switched_off_is_the_body_exactly(lora):
    tuned, adapter, before = lora
    assert not torch.allclose(tuned.body(IDX)[0], before(IDX)[0])
    with adapter.disable_adapter():
        assert torch.equal(tuned.body(IDX)[0], before(IDX)[0])
    assert not torch.allclose(tuned.body(IDX)[0], before(IDX)[0])


def test_training_lora_leaves_the_body_as_it_was(lora):
    tuned, adapter, before = lora
    finetune(tuned, VOCAB, sentences(24), config())
    with adapter.disable_adapter():
        assert torch.equal(tuned.body(IDX)[0], before(IDX)[0])


def test_our_low_rank_map_is_pefts(lora):
    layer = lora[0].body.blocks[0].mlp.up
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    ours = low_rank(x, layer.base_layer.weight, layer.base_layer.bias, down, up, alpha=6.0)
    torch.testing.assert_close(ours, layer(x))


def test_merged_lora_is_the_same_model(lora):
    tuned, adapter, _ = lora
    expected, _ = tuned.body(IDX)
    torch.testing.assert_close(adapter.merge_and_unload()(IDX)[0], expected, atol=1e-4, rtol=1e-4)


def test_lora_trains_its_own_values_and_the_head(lora):
    tuned, _, _ = lora
    a_block = 3 * (4 * (16 + 16) + 2 * (16 + 64))
    assert n_trained(tuned) == 2 * a_block + 34
    names = {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name.startswith("head.") for name in names)
    assert {depth(name, 2) for name in names} == {1, 2, 3}, "so layer_rates knows them"


def test_chosen_maps_alone_get_lora():
    pytest.importorskip("peft")
    tuned = Classifier(body())
    add_lora(tuned, 2, targets=("query", "value"))
    result = {name.split(".")[4] for name, p in tuned.named_parameters() if "lora" in name}
    assert result == {"query", "value"} and set(LINEAR) >= result


def test_loras_draw_depends_on_its_seed_alone():
    pytest.importorskip("peft")

    def drawn(seed):
        tuned = Classifier(body())
        state = torch.get_rng_state()
        add_lora(tuned, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return next(p for name, p in tuned.named_parameters() if "lora_A" in name)

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))


def test_a_model_with_lora_still_answers():
    pytest.importorskip("peft")
    model = body()
    before = kt.answer(model, VOCAB, ["was a fine"], max_new=4)
    adapter = add_lora(Classifier(model))
    assert kt.answer(model, VOCAB, ["was a fine"], max_new=4) == before
    with adapter.disable_adapter():
        assert kt.answer(model, VOCAB, ["was a fine"], max_new=4) == before


def test_rank_0_is_refused():
    pytest.importorskip("peft")
    with pytest.raises(ValueError, match="rank must be 1 or more, not 0"):
        add_lora(Classifier(body()), rank=0)


def test_without_peft_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ValueError, match="pip install"):
        add_lora(Classifier(body()))


# ---------------------------------------------------------------- training


def toy():
    """Sentences whose label is their first letter."""
    return [Sentence(f"{'ab'[i % 2]}{'cdefghij'[i // 2 % 8]}.", i % 2, "plain") for i in range(16)]


def test_it_learns_and_is_the_same_bit_for_bit():
    def train(seed):
        tuned = Classifier(body(), seed=seed)
        history = finetune(tuned, VOCAB, toy(), config(steps=40, seed=seed, log_every=1))
        return [row["loss"] for row in history], history[-1], tuned

    (first, row, one), (second, _, two), (other, _, _) = train(0), train(0), train(1)
    assert first == second != other
    assert not moved(one, values(two)) and not one.training
    assert predict(one, VOCAB, [s.text for s in toy()]) == [s.label for s in toy()]
    assert first[0] > 0.5 > 0.2 > first[-1]
    # 3 batches per epoch; 16 sentences of 4 characters, with the ⁇ after each
    assert (row["step"], row["epoch"]) == (40, 13.333)
    assert 13 * 16 * 4 < row["characters"] <= 13 * 16 * 4 + 6 * 4


def test_a_frozen_body_is_read_once_and_the_head_learns():
    tuned = Classifier(body())
    train_top(tuned, 0)
    calls = []
    tuned.body.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    finetune(tuned, VOCAB, toy(), config(steps=60, learning_rate=0.1))
    assert len(calls) == 1
    assert predict(tuned, VOCAB, [s.text for s in toy()]) == [s.label for s in toy()]


def test_a_frozen_body_takes_the_same_steps_as_one_that_is_read_each_time():
    tuned, other = (Classifier(body()) for _ in range(2))
    train_top(tuned, 0), train_top(other, 0)
    c, data = config(steps=5, weight_decay=0.01), toy()
    finetune(tuned, VOCAB, data, c)
    rows = encode_rows(VOCAB, [s.text for s in data])
    optimizer = torch.optim.AdamW(
        other.head.parameters(), lr=c.learning_rate, betas=c.betas, weight_decay=0.01
    )
    labelled = LabelledData(rows, [s.label for s in data])
    kt.Trainer(other, labelled, c, optimizers=[optimizer]).fit()
    torch.testing.assert_close(tuned.head.weight, other.head.weight)


def test_the_rate_follows_the_schedule():
    """A schedule with a lower rate in the second step ends elsewhere."""
    ends = []
    for steps, share in ((1, 1.0), (2, 0.0)):
        tuned = Classifier(body())
        c = config(steps=steps, schedule="linear", cooldown_from=0.0, final_fraction=share)
        finetune(tuned, VOCAB, toy(), c)
        ends.append(values(tuned))
    assert not all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])
    assert config(schedule="linear", cooldown_from=0.0, final_fraction=0.0).rate(1, 2) == 0.5


def test_replay_keeps_the_old_task():
    pairs = kt.NamePlace([("fine", "soup"), ("dull", "tea"), ("nice", "cake")], VOCAB, 32)
    x, y = next(kt.batches(pairs, 3, 0, 0))
    model = body()
    kt.Trainer(model, pairs, config(steps=60, batch_size=3)).fit()
    was = model(x, y)[1].item()
    left = {}
    for replay in (None, pairs):
        tuned = Classifier(copy.deepcopy(model))
        own = tuned.body.head.weight.clone()
        finetune(tuned, VOCAB, toy(), config(steps=40), replay=replay)
        left[replay is not None] = tuned.body(x, y)[1].item()
        assert torch.equal(tuned.body.head.weight, own)
        assert predict(tuned, VOCAB, [s.text for s in toy()]) == [s.label for s in toy()]
    assert was < 0.1 and left[True] < 0.1 < left[False]


def test_nothing_to_train_on_is_refused():
    with pytest.raises(ValueError, match="no sentences"):
        finetune(Classifier(body()), VOCAB, [], config())


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="no pooling 'max'"):
        Classifier(body(), "max")
    with pytest.raises(ValueError, match="no pooling 'max'"):
        pool(torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.long), "max")


def test_retained_counts_what_was_known():
    gold = ["a", "b", "c", "d"]
    result = retained(["a", "b", "x", "d "], ["a", "y", "c", " d"], gold)
    assert (result.correct, result.total) == (2, 3)
    assert retained(["x"], ["a"], ["a"]) == kt.Score(0, 0)
    with pytest.raises(ValueError, match="2 answers before, 1 after, 2 gold"):
        retained(["a", "b"], ["a"], ["a", "b"])
