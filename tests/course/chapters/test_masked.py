"""Masked language models: hiding, the loss, the encoder, filling, two texts, training."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import checkpoints
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import kt_core as kt
from kt_core.attention import MultiHeadAttention, padding_mask
from kt_core.datasets import Mixture, NamePlace, batches
from kt_core.decoding import KVCache
from kt_core.runs.text_rules import name_prefix_end, salient_spans
from kt_core.train_config import TrainConfig
from kt_core.trainer import Trainer
from kt_course.chapters.masked_language_models import masked_pretraining, masked_scores, text_pairs
from kt_course.chapters.masked_language_models.masked_data import (
    UNITS,
    MaskedPairs,
    MaskedText,
    SpanWindows,
    choose_units,
)
from kt_course.chapters.masked_language_models.masked_decoding import (
    LENGTHS,
    answer_masked,
    fill_texts,
    infer_lengths,
    masked_question,
)
from kt_course.chapters.masked_language_models.masked_pretraining import (
    PHASES,
    pretrain_masked,
    select_people,
)
from kt_course.chapters.masked_language_models.solutions import (
    PairModel,
    divergence,
    hide_units,
    pad_rows,
)
from kt_course.shipped import shipped, shipped_result

SEEDS = shipped_result("masked_models")

LINES = [
    "Ada Moor. She was born in Oslo in 1901, and studied law in Rome.",
    "Ada Moor. Painter from Oslo, Norway. She died in Lima.",
    "Jan Berg. Born in 1871 and raised in Vienna. He worked in New York.",
    "Jan Berg. A native of Vienna, he became a chemist.",
    "Eva Lind. Eva was born in Accra on 4 May 1950.",
    "Eva Lind. Her birthplace was Accra. She was a poet.",
]
PAIRS = [(kt.question("Ada Moor"), "Oslo"), (kt.question("Jan Berg"), "Vienna")]
VOCAB = kt.CharVocab.from_documents(LINES)


def encoder(seed=0, vocab=VOCAB, variant="rope", n_layer=2, block_size=128, **more):
    torch.manual_seed(seed)
    return kt.GPT(
        kt.GPTConfig(
            len(vocab), block_size, n_layer, 2, 16, variant, dropout=0.0, causal=False, **more
        )
    ).eval()


# ---------------------------------------------------------------- hiding


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(5, 80),
    st.sampled_from([(0.8, 0.1), (1.0, 0.0), (0.0, 0.0), (0.2, 0.7)]),
)
def test_hiding_changes_chosen_places_alone_and_asks_for_all_of_them(seed, n, rule):
    rng = random.Random(seed)
    ids = [rng.randrange(2, 40) for _ in range(n)]
    edges = sorted(rng.sample(range(n + 1), 4))
    units = [(edges[0], edges[1]), (edges[2], edges[3])]
    before = list(ids)
    x, y = hide_units(ids, units, 40, rng, rule)
    assert ids == before
    chosen = {j for a, b in units for j in range(a, b)}
    assert [j for j in range(n) if y[j]] == sorted(chosen)
    assert all(y[j] == ids[j] for j in chosen) and all(
        x[j] == ids[j] for j in set(range(n)) - chosen
    )
    for a, b in units:
        assert x[a:b] == [1] * (b - a) or 1 not in x[a:b]  # one draw a unit
        assert all(1 <= v < 40 for v in x[a:b])
    if rule == (1.0, 0.0):
        assert all(x[j] == 1 for j in chosen)
    if rule == (0.0, 0.0):
        assert x == ids


def test_the_rule_is_bert_s():
    ids = [2 + j % 30 for j in range(30000)]
    x, y = hide_units(ids, [(j, j + 1) for j in range(30000)], 32, random.Random(0))
    kinds = Counter(
        "hidden" if a == 1 else "same" if a == b else "random" for a, b in zip(x, y, strict=True)
    )
    assert kinds["hidden"] / 30000 == pytest.approx(0.8, abs=0.012)
    assert kinds["random"] / 30000 == pytest.approx(
        0.1 * 29 / 30, abs=0.01
    )  # one of 30 is the old one by chance
    counts = Counter(a for a, b in zip(x, y, strict=True) if a not in (1, b))
    assert set(counts) == set(range(2, 32)) and max(counts.values()) < 2 * min(counts.values())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(LINES), st.integers(0, 9999), st.floats(0.01, 1.0))
def test_choose_takes_its_share_in_whole_units(text, seed, share):
    for units, most in (("chars", 1), ("words", max(map(len, text.replace(".", "").split())))):
        chosen = choose_units(text, units, random.Random(seed), share)
        n = sum(b - a for a, b in chosen)
        assert chosen and len({j for a, b in chosen for j in range(a, b)}) == n
        everything = sum(b - a for a, b in choose_units(text, units, random.Random(0), 1.0))
        assert n >= min(share * len(text), everything) and n < share * len(text) + most
        if units == "words":
            for a, b in chosen:
                assert text[a:b].strip(" .,") == text[a:b]
                assert (a == 0 or text[a - 1] in " ") and (b == len(text) or text[b] in " .,")


def test_choose_knows_its_units():
    with pytest.raises(ValueError, match="units must be chars or words, not 'spans'"):
        choose_units("a", "spans", random.Random(0))


# ---------------------------------------------------------------- datasets


def views(data):
    """(x, y) of all examples as texts: □ where there is no loss."""
    return [tuple(VOCAB.decode(part) for part in data.tokens(i)) for i in range(len(data))]


@pytest.mark.parametrize("units", UNITS)
def test_masked_text_hides_what_it_says(units):
    data = MaskedText(LINES, VOCAB, seed=3, units=units)
    twin = SpanWindows(LINES, VOCAB, 128, 3)
    for epoch in range(4):
        for i in range(len(LINES)):
            before, span, after = twin.pieces(i, epoch)
            text, (x, y) = before + span + after, data.tokens(i, epoch)
            assert len(x) == len(y) == len(text)
            ids = VOCAB.encode(text)
            assert all(a in (0, b) for a, b in zip(y, ids, strict=True)) and any(y)
            assert all(a == b for a, b, target in zip(x, ids, y, strict=True) if not target)
            if units == "spans":
                targets = [j for j, v in enumerate(y) if v]
                assert targets == list(range(len(before), len(before + span)))
                assert all(x[j] == 1 for j in targets)
            else:
                assert sum(map(bool, y)) >= 0.15 * len(text)


@pytest.mark.parametrize("block", [24, 128])
def test_span_windows_show_the_name_and_a_few_words_around_the_gap(block):
    lines = [*LINES, "Bo Ek. he came home", "no name at all", "Jan Berg. "]
    data, n_before, n_after = SpanWindows(lines, VOCAB, block), set(), set()
    for epoch in range(100):
        for i, line in enumerate(lines):
            prefix, span, suffix = data.pieces(i, epoch)
            name = line[: name_prefix_end(line)] if i < 7 else ""
            assert prefix.startswith(name) and span
            words = prefix.removeprefix(name) + span + suffix
            assert words in line
            ids, first = data.tokens(i, epoch)
            assert VOCAB.decode(ids) == f"{prefix}⁇{suffix}⁇{span}⁇" and len(ids) <= block + 1
            assert VOCAB.decode(ids[first:]) == f"{span}⁇"
            n_before.add(len(prefix.removeprefix(name).split()))
            n_after.add(len(suffix.strip(" .,").split()))
    if block == 128:
        assert n_before == set(range(5)) and n_after == set(range(3))


def test_masked_pairs_hide_the_answer():
    texts = views(MaskedPairs(PAIRS, VOCAB))
    assert texts[0] == (masked_question(PAIRS[0][0], 4), "□" * (len(PAIRS[0][0]) + 1) + "Oslo□")
    assert texts[1][0].count("⁇") == 6 and texts[1][0].endswith("\n")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: MaskedText(LINES, VOCAB, units="letters"),
            "units must be one of chars, words, spans, not 'letters'",
        ),
        (lambda: MaskedText(LINES, VOCAB, share=0.0), "share must be above 0"),
        (lambda: MaskedText([""], VOCAB), "document 0 is empty"),
        (lambda: MaskedText([". , ."], VOCAB), "document 0 has no span that fits the block"),
        (lambda: MaskedPairs([(PAIRS[0][0], None)], VOCAB), "pair 0"),
        (lambda: MaskedPairs(PAIRS, VOCAB, 20), "a block of 20"),
        (lambda: pretrain_masked("masked_letters"), "phase must be one of masked_chars"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_draws_depend_on_seed_epoch_and_index_alone():
    def of(seed, epoch, order):
        data = MaskedText(LINES, VOCAB, seed=seed, units="chars")
        examples = {i: data.tokens(i, epoch) for i in order}
        return [examples[i] for i in range(len(LINES))]

    first = of(0, 1, range(6))
    random.seed(9)
    assert of(0, 1, reversed(range(6))) == first
    assert of(1, 1, range(6)) != first and of(0, 2, range(6)) != first


def test_batches_of_masked_data_are_not_shifted():
    data = Mixture([(MaskedText(LINES, VOCAB, units="spans"), 2), (MaskedPairs(PAIRS, VOCAB), 1)])
    assert len(data) == 14
    rows = 0
    for x, y in batches(data, 4, 0, 0):
        assert x.shape == y.shape and x.dtype == y.dtype == torch.int64
        assert bool((x[:, -1] != 0).any())  # no longer than the longest row
        assert ((y != 0) == (x == 1)).all()
        rows += len(x)
    assert rows == 14
    x, y = data[0]
    assert x.shape == y.shape == (128,)


def test_padded_puts_zeros_behind():
    assert pad_rows([[3, 4], [5]]).tolist() == [[3, 4], [5, 0]]


# ---------------------------------------------------------------- the loss


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 9), st.integers(2, 30))
def test_the_divergence_is_the_cross_entropy(seed, B, T, V):
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(B, T, V, generator=generator, dtype=torch.double).requires_grad_()
    targets = torch.randint(0, V, (B, T), generator=generator)
    targets[0, 0] = V - 1
    kl = divergence(logits, targets)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0)
    torch.testing.assert_close(kl, expected)
    (a,), (b,) = (torch.autograd.grad(loss, logits, retain_graph=True) for loss in (kl, expected))
    torch.testing.assert_close(a, b)
    assert kl >= 0


def test_the_divergence_is_kl_by_torch_too_and_survives_large_logits():
    logits, targets = torch.tensor([[[0.0, 900.0, -900.0, 3.0]]]), torch.tensor([[2]])
    assert divergence(logits, targets).item() == pytest.approx(1800.0)
    p = F.one_hot(targets[0], 4).float()
    assert F.kl_div(logits[0].log_softmax(-1), p, reduction="batchmean").item() == pytest.approx(
        1800.0
    )


def test_the_models_own_loss_is_this_one():
    model, data = encoder(), MaskedText(LINES, VOCAB, units="words")
    x, y = next(batches(data, 6, 0, 0))
    logits, loss = model(x, y)
    torch.testing.assert_close(loss, divergence(logits, y))


# ---------------------------------------------------------------- the encoder


@pytest.mark.parametrize("variant", ["vanilla", "rope"])
def test_every_output_sees_every_character(variant):
    model = encoder(variant=variant).double()
    for p in model.parameters():  # weights large enough for influence to show
        p.data = (
            0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())).double()
        )
    idx = torch.tensor([VOCAB.encode("Ada Moor")])
    before = model(idx)[0]
    for j in range(idx.size(1)):
        other = idx.clone()
        other[0, j] = 2 + (idx[0, j] - 1) % (len(VOCAB) - 2)
        assert ((model(other)[0] - before).abs().amax(-1)[0] > 1e-9).all()


@pytest.mark.parametrize("variant", ["vanilla", "rope"])
def test_padding_changes_nothing(variant):
    model = encoder(variant=variant)
    ids = VOCAB.encode(LINES[0][:30])
    alone = model(torch.tensor([ids]))[0]
    batch = model(pad_rows([ids, VOCAB.encode(LINES[2][:60])]))[0]
    torch.testing.assert_close(batch[:1, : len(ids)], alone, atol=1e-5, rtol=1e-4)


def test_it_is_the_same_module_without_its_triangle():
    both = encoder()
    causal = kt.GPT(dataclasses.replace(both.config, causal=True)).eval()
    causal.load_state_dict(both.state_dict())
    idx = torch.tensor([VOCAB.encode("Ada Moor. She was")])
    maps = {}
    for name, model in (("both", both), ("causal", causal)):
        with kt.record_attention(model) as recorded:
            model(idx)
        maps[name] = recorded[0]
    torch.testing.assert_close(causal(idx)[0][:, -1], causal(idx[:, :])[0][:, -1])
    lower = maps["both"].tril()
    torch.testing.assert_close(
        maps["causal"], lower / lower.sum(-1, keepdim=True)
    )  # the first layer reads the same
    assert (maps["both"] > 0).all()
    assert [type(m) for m in both.modules()] == [type(m) for m in causal.modules()]
    assert sum(isinstance(m, MultiHeadAttention) for m in both.modules()) == 2


def test_explicit_and_fused_attention_agree_on_padded_batches():
    model = encoder()
    x = pad_rows([VOCAB.encode(line[:40]) for line in (LINES[0], LINES[1][:20])])
    fused = model(x)[0]
    with kt.record_attention(model) as maps:
        explicit = model(x)[0]
    text = x != 0
    torch.testing.assert_close(fused[text], explicit[text], atol=1e-5, rtol=1e-4)
    assert (maps[0][1, :, :, 20:] == 0).all()


def test_padding_mask():
    mask = padding_mask(torch.tensor([[5, 1, 0], [4, 4, 4]]))
    assert mask.shape == (2, 1, 1, 3) and mask.dtype == torch.bool
    assert mask[:, 0, 0].tolist() == [[True, True, False], [True, True, True]]


def test_what_an_encoder_cannot_do_is_told():
    model = encoder()
    with pytest.raises(ValueError, match="encoder"):
        kt.answer(model, VOCAB, [PAIRS[0][0]])
    with pytest.raises(ValueError, match="keeps no cache"):
        KVCache(model, 1)
    for variant in ("perceiver", "perceiver_ar"):
        with pytest.raises(ValueError, match=f"causal must be True: {variant}"):
            kt.GPTConfig(9, variant=variant, causal=False)
    with pytest.raises(ValueError, match="GPTConfig.causal must be True or False"):
        kt.GPTConfig(9, causal=1)


def test_an_encoder_comes_back_from_its_checkpoint_as_an_encoder(tmp_path):
    model = encoder()
    path = kt.save_checkpoint(tmp_path / "e.safetensors", model, VOCAB)
    again, _, card = kt.load_checkpoint(path)
    assert card["config"]["causal"] is False and again.config == model.config
    idx = torch.tensor([VOCAB.encode("Ada ⁇⁇⁇⁇")])
    torch.testing.assert_close(again(idx)[0], model(idx)[0])


# ---------------------------------------------------------------- filling


def test_rows_are_filled_as_if_alone():
    model = encoder(3)
    for p in model.parameters():
        p.data = 0.7 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    texts = ["Ada ⁇⁇⁇⁇. She was", "⁇⁇⁇", "Jan Berg. Born in ⁇⁇⁇⁇⁇⁇, Austria. He ⁇⁇⁇ a chemist"]
    together = fill_texts(model, VOCAB, texts)
    assert together == [fill_texts(model, VOCAB, [text])[0] for text in texts]
    assert [len(text) for text in together] == [len(text) for text in texts]
    assert not any("⁇" in text or "□" in text for text in together)


def test_lengths_given_and_found():
    model, questions = encoder(5), [q for q, _ in PAIRS]
    assert [len(a) for a in answer_masked(model, VOCAB, questions, [4, 6])] == [4, 6]
    inferred = infer_lengths(model, VOCAB, questions)
    assert all(n in LENGTHS for n in inferred)
    assert [len(a) for a in answer_masked(model, VOCAB, questions)] == inferred
    # by hand: the mean over the masks of the log-probability of the likeliest character
    means = []
    for n in LENGTHS:
        ids = torch.tensor([VOCAB.encode(masked_question(questions[0], n))])
        logits = model(ids)[0][0, ids[0] == 1].detach()
        logits[:, :2] = -torch.inf
        means.append(logits.log_softmax(-1).max(-1).values.mean().item())
    assert LENGTHS[max(range(len(means)), key=means.__getitem__)] == inferred[0]


# ---------------------------------------------------------------- two texts


def test_two_texts_are_one_input_with_two_segments():
    idx, segments = text_pairs.encode_pairs(VOCAB, [("Ada", "Oslo"), ("Ada", "He")])
    assert [VOCAB.decode(row) for row in idx] == ["⁇Ada\nOslo\n", "⁇Ada\nHe\n□□"]
    assert segments.tolist() == [[0] * 5 + [1] * 5, [0] * 5 + [1] * 3 + [0] * 2]


@pytest.mark.parametrize("names", [True, False])
def test_half_of_the_line_pairs_are_about_one_person(names):
    lines = text_pairs.group_by_person(LINES)
    assert [len(own) for own in lines] == [2, 2, 2] and lines[1] == LINES[2:4]
    whole = {line[: text_pairs.HALF]: line for line in LINES}
    whole |= {line[name_prefix_end(line) :][: text_pairs.HALF]: line for line in LINES}
    rng, n_same = random.Random(0), 0
    for _ in range(600):
        first, second, same = text_pairs.draw_line_pair(lines, rng, names=names)
        a, b = whole[first], whole[second]
        assert a != b and (a.split(".")[0] == b.split(".")[0]) == same
        assert (first in a[: text_pairs.HALF]) == names
        n_same += same
    assert 240 < n_same < 360


def test_a_passage_hides_the_name_and_says_where_the_answer_is():
    rows = text_pairs.passages(LINES, PAIRS)
    assert [answer for *_, answer in rows] == ["Oslo", "Oslo", "Vienna", "Vienna"]
    assert all("Moor" not in line and "Berg" not in line for _, line, _ in rows)
    assert not text_pairs.passages(LINES, PAIRS, block_size=40)
    idx, segments, spans = text_pairs.encode_passages(VOCAB, rows)
    for ids, segment, (first, last), (*_, answer) in zip(idx, segments, spans, rows, strict=True):
        assert VOCAB.decode(ids[first : last + 1]) == answer and segment[first] == 1


def test_extracted_answers_are_spans_of_the_line():
    rows = text_pairs.passages(LINES, PAIRS)
    model = PairModel(encoder(), 2)
    assert all(a in line for a, (_, line, _) in zip(extract(model, rows), rows, strict=True))
    sizes = []
    extract(model, rows, lambda start, end, allowed: sizes.append(int(allowed.sum())) or (0, 1))
    assert sizes == [len(line) + 1 for _, line, _ in rows]


def extract(model, rows, *find):
    return text_pairs.extract_answers(model, VOCAB, rows, *find)


def test_a_pair_model_starts_as_its_body():
    body = encoder()
    model, (idx, segments) = PairModel(body, 2), text_pairs.encode_pairs(VOCAB, [("Ada", "Oslo")])
    model.head.weight.data, model.head.bias.data = body.head.weight.data[:2], torch.zeros(2)
    torch.testing.assert_close(model(idx, segments), body(idx)[0][..., :2])


# ---------------------------------------------------------------- scores


def test_windows_show_the_words_around_a_place():
    windows = masked_scores.place_windows(LINES, PAIRS)
    assert windows == [
        ("Ada Moor. ", "born in ", "Oslo", " in"),
        ("Jan Berg. ", "raised in ", "Vienna", ". He"),
    ]


def test_scores_count_letters_and_places(monkeypatch):
    windows, read = masked_scores.place_windows(LINES, PAIRS), []

    def fill(model, vocab, texts):
        read.extend(texts)
        return [text.replace("⁇", "o") for text in texts]

    monkeypatch.setattr(masked_scores, "fill_texts", fill)
    score = masked_scores.score_letters(None, VOCAB, windows, 1.0, is_stranger=True)
    assert (score.correct, score.total) == (1, 10)
    assert read == ["Jan Berg. born in ⁇⁇⁇⁇ in", "Ada Moor. raised in ⁇⁇⁇⁇⁇⁇. He"]
    assert masked_scores.score_letters(None, VOCAB, windows, 0.0, False).total == 2
    assert masked_scores.score_windows(encoder(), VOCAB, windows).correct == 0


# ---------------------------------------------------------------- training


def test_a_small_encoder_learns_four_answers_by_heart():
    corpus = kt.load_corpus("bios:people=20")
    torch.manual_seed(0)
    config = kt.GPTConfig(
        len(corpus.vocab), 128, 1, 2, 32, "rope", dropout=0.0, qk_norm=True, causal=False
    )
    model, data = (kt.GPT(config), MaskedPairs(corpus.train[:4], corpus.vocab))
    settings = TrainConfig(
        steps=120, batch_size=4, optimizer="muon", lr=1e-2, muon_lr=0.02, weight_decay=0.0
    )
    history = Trainer(model, data, settings).fit()
    assert history[0]["loss"] > 2 and history[-1]["loss"] < 0.1


def test_some_people_are_those_of_the_questions():
    corpus = kt.load_corpus("bios:people=40")
    train, dev, documents = select_people(corpus, 5, 3)
    assert train == corpus.train[:5] and dev == corpus.dev[:3] and len(documents) == 4 * 8
    names = {kt.question_name(q) for q, _ in train + dev}
    assert {line.split(". ")[0] for line in documents} <= names | {n.split(". ")[0] for n in names}


@pytest.mark.parametrize("phase", PHASES)
def test_pretraining_makes_a_model_and_its_card(phase, tmp_path):
    corpus = kt.load_corpus("bios:people=40")
    small = dict(
        epochs=0.5, people=(10, 5), n_layer=1, n_head=2, n_embd=16, state=tmp_path / "state"
    )
    model, vocab, card = pretrain_masked(phase, corpus, **small)
    assert model.config.causal is (phase == "cut_spans") and vocab == corpus.vocab
    assert card["dev"]["total"] == 5 and card["phase"] == phase and card["people"] == [10, 5]
    again, _, same = pretrain_masked(
        phase, corpus, **small
    )  # from its state: nothing is trained again
    assert same["cost"] == card["cost"]
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


def test_both_kinds_see_the_same_windows():
    """The causal model reads the same words and spans as the encoders, as often."""
    documents = MaskedText(LINES, VOCAB, seed=0, units="spans")
    cut = SpanWindows(LINES, VOCAB, seed=0)
    for epoch in range(5):
        for i in range(len(LINES)):
            before, span, after = cut.pieces(i, epoch)
            x, y = documents.tokens(i, epoch)
            text = VOCAB.decode(a or b for a, b in zip(y, x, strict=True))
            assert sorted(before + span + after) == sorted(text) and salient_spans(LINES[i])
    assert len(NamePlace(PAIRS, VOCAB)) == len(MaskedPairs(PAIRS, VOCAB))


def test_the_command_ships_the_masked_models_with_rope_on_bios(tmp_path, monkeypatch, capsys):
    calls = []

    def train(phase, **options):
        calls.append((phase, options["seed"], options["state"].name))
        return encoder(), VOCAB, dict(phase=phase, dev=dict(correct=1, total=2))

    monkeypatch.setattr(masked_pretraining, "pretrain_masked", train)
    monkeypatch.setattr(checkpoints, "planned_runs", list)
    checkpoints.retrain("bios", ["vanilla"], 0, tmp_path / "runs", tmp_path / "out")
    assert not calls
    checkpoints.retrain("bios", ["rope"], 4, tmp_path / "runs", tmp_path / "out")
    assert [phase for phase, *_ in calls] == list(PHASES)
    assert calls[0] == ("masked_chars", 4, "bios-rope-masked_chars-seed4.state")
    assert "bios masked_spans: dev 1 of 2" in capsys.readouterr().out
    model, _, card = kt.load_checkpoint(tmp_path / "out" / "bios-rope-masked_spans.safetensors")
    assert not model.config.causal and card["phase"] == "masked_spans"


@pytest.mark.parametrize("phase", PHASES)
def test_what_ships_is_what_the_command_makes(phase):
    model, vocab, card = shipped("bios", "rope", phase)
    assert model.config.causal is (phase == "cut_spans") and card["phase"] == phase
    corpus = kt.load_corpus("bios")
    _, dev, _ = select_people(corpus, *card["people"])
    score = masked_scores.score_questions(model, vocab, dev)
    assert abs(score.correct - card["dev"]["correct"]) <= 0.03 * score.total  # half precision since


# ---------------------------------------------------------------- the page's claims


@pytest.mark.slow
@pytest.mark.notebook("10_masked_language_models")
def test_what_the_page_says_of_its_trainings(facts):
    """The live trainings succeed; the tolerances leave room for other processors."""
    assert facts["own_last_loss"] < 2.8
    assert facts["next_sentence"]["accuracy"] > 0.6
    assert facts["extracted"]["accuracy"] > 0.8
    assert facts["remembered"]["test people"]["high"] < 0.3
    assert facts["asked"]["length given"]["correct"] > facts["asked"]["length inferred"]["correct"]


def accuracy(phase, key):
    """The mean accuracy over the seeds in the results file."""
    rows = [run["results"][key] for run in SEEDS["runs"] if run["phase"] == phase]
    return sum(row[0] / row[1] for row in rows) / len(rows)


def test_what_the_page_says_of_several_seeds():
    counts = Counter(run["phase"] for run in SEEDS["runs"])
    assert counts.keys() == {*PHASES, "pairs"}
    assert min(counts.values()) >= 3
    assert accuracy("masked_spans", "seen wording") > 0.5
    assert accuracy("masked_spans", "question") > 0.3
    assert accuracy("masked_chars", "seen wording") < 0.1
    assert accuracy("pairs", "extraction, new body") > 0.8
    assert accuracy("pairs", "next sentence") > accuracy("pairs", "next sentence, no names")
