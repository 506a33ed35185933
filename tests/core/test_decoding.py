"""Cached decoding equals uncached decoding; generation stops, samples and refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kt_core.blocks import GPTConfig
from kt_core.decoding import answer, generate, pick_next
from kt_core.kv_cache import KVCache
from kt_core.models import GPT
from kt_core.vocab import CharVocab

V = 29
CASES = [
    ("vanilla", 13, 13),
    ("rope", 13, 13),
    ("perceiver", 13, 5),
    ("perceiver", 12, 12),
    ("perceiver_ar", 13, 13),
    ("perceiver_ar", 13, 7),
    ("perceiver_ar", 13, 5),
    ("perceiver_ar", 13, 4),
    ("perceiver_ar", 12, 6),
    ("perceiver_ar", 12, 3),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
MIXED = [1, 2, 3, 4, 6, 7, 8, 11, 12]  # lengths of prompts in one batch


def trained_like(case, seed=0, vocab_size=V, **knobs):
    """Large random weights: the likeliest character varies from step to step."""
    variant, block_size, bottleneck = case
    sizes = {"n_layer": 3, "n_head": 2, "n_embd": 16, "dropout": 0.0} | knobs
    model = GPT(GPTConfig(vocab_size, block_size, variant=variant, bottleneck=bottleneck, **sizes))
    generator = torch.Generator().manual_seed(seed)
    for parameter_name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        size = 1.6 if "_emb" in parameter_name else 0.05 if parameter_name.endswith("bias") else 0.4
        parameter.data = (
            1 + 0.2 * noise
            if "ln" in parameter_name and "weight" in parameter_name
            else size * noise
        )
    return model.eval()


def prompts_of(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, V, (n,), generator=generator).tolist() for n in lengths]


def by_hand(model, prompt, max_new, stop=(0, 1)):
    """One text at a time, everything computed again for every character."""
    ids = list(prompt)
    while len(ids) - len(prompt) < max_new and len(ids) <= model.config.block_size:
        with torch.no_grad():
            chosen = int(model(torch.tensor([ids]))[0][0, -1].argmax())
        if chosen in stop:
            break
        ids.append(chosen)
    return ids[len(prompt) :]


# ---------------------------------------------------------------- the cache


@every_case
def test_cached_equals_uncached_equals_one_by_one_up_to_the_blocks_end(case):
    model = trained_like(case)
    prompts = prompts_of([n for n in MIXED if n <= case[1]])
    cached = generate(model, prompts, stop=())
    assert cached == generate(model, prompts, stop=(), use_cache=False)
    assert cached[::4] == [by_hand(model, p, 99, stop=()) for p in prompts[::4]]
    assert [len(n) for n in cached] == [
        case[1] - len(p) + 1 for p in prompts
    ]  # a full block still names one more
    assert len({i for ids in cached for i in ids}) >= 6  # not one character over and over
    assert any(len(set(ids)) >= 3 for ids in cached)


def read(model, idx, cache):
    """Logits of all prompts, whose keys and values go into the cache."""
    logits = model.head(model.hidden(idx, cache=cache))
    cache.prompts_are_read = True
    return logits


def read_one(model, idx, positions, cache):
    """Logits after one more character per row."""
    return model.head(model.hidden(idx[:, None], positions[:, None], cache))[:, -1]


@every_case
@pytest.mark.parametrize("qk_norm", [False, True])
def test_logits_of_every_step_are_those_of_the_whole_pass(case, qk_norm):
    model, block = trained_like(case, qk_norm=qk_norm), case[1]
    idx = torch.randint(1, V, (4, block), generator=torch.Generator().manual_seed(1))
    start = [1, 2, 5, 8]  # rows are at different positions
    with torch.no_grad():
        whole = model(idx)[0]
        padded = torch.zeros(4, max(start), dtype=torch.long)
        for row, n in enumerate(start):
            padded[row, :n] = idx[row, :n]
        cache = KVCache(model, len(padded))
        logits = read(model, padded, cache)
        for row, n in enumerate(start):
            torch.testing.assert_close(logits[row, :n], whole[row, :n], atol=1e-4, rtol=1e-4)
        at, rows = torch.tensor(start), torch.arange(4)
        while int(at.min()) < block:
            here = at.clamp(max=block - 1)  # rows that are full wait at their last place
            step = read_one(model, idx[rows, here], here, cache)
            torch.testing.assert_close(step, whole[rows, here], atol=1e-4, rtol=1e-4)
            at = at + 1


@every_case
def test_steps_from_a_single_character(case):
    model = trained_like(case)
    idx = torch.randint(1, V, (2, case[1]), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole = model(idx)[0]
        cache = KVCache(model, 2)
        logits = read(model, idx[:, :1], cache)
        torch.testing.assert_close(logits[:, 0], whole[:, 0], atol=1e-4, rtol=1e-4)
        for t in range(1, case[1]):
            step = read_one(model, idx[:, t], torch.full((2,), t), cache)
            torch.testing.assert_close(step, whole[:, t], atol=1e-4, rtol=1e-4)


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(CASES),
    st.lists(st.integers(1, 12), min_size=1, max_size=5),
    st.integers(0, 6),
    st.integers(0, 99),
)
def test_any_batch_of_prompts_decodes_as_each_prompt_alone(case, lengths, max_new, seed):
    model = trained_like(case, seed=seed % 3)
    prompts = prompts_of(lengths, seed)
    assert generate(model, prompts, max_new=max_new) == [
        by_hand(model, p, max_new) for p in prompts
    ]


@pytest.mark.parametrize("case", [CASES[0], CASES[1], CASES[2], CASES[6]], ids=lambda case: case[0])
def test_decoding_under_bfloat16_autocast_runs(case):
    with torch.autocast("cpu", torch.bfloat16):
        new = generate(trained_like(case), prompts_of([2, 5]), stop=(), max_new=4)
    assert [len(n) for n in new] == [4, 4]


# ---------------------------------------------------------------- generate


def test_a_stop_id_ends_its_row_alone_and_is_left_out():
    model, prompts = trained_like(CASES[1]), prompts_of(MIXED)
    free = generate(model, prompts, stop=())
    stop = free[3][2]  # the third character of one row
    assert any(stop not in new for new in free)
    expected = [new[: new.index(stop)] if stop in new else new for new in free]
    assert generate(model, prompts, stop=(stop,)) == expected
    assert generate(model, prompts, stop=(stop,), use_cache=False) == expected
    assert len(expected[3]) <= 2


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("max_new", [0, 1, 3])
def test_max_new_cuts_and_changes_nothing_else(max_new, use_cache):
    model, prompts = trained_like(CASES[6]), prompts_of([1, 4, 12])
    free = generate(model, prompts, stop=())
    assert generate(model, prompts, stop=(), max_new=max_new, use_cache=use_cache) == [
        new[:max_new] for new in free
    ]


def test_a_full_block_names_one_character():
    model, (prompt,) = trained_like(CASES[0]), prompts_of([13])
    assert generate(model, [prompt], stop=()) == [
        [int(model(torch.tensor([prompt]))[0][0, -1].argmax())]
    ]


@pytest.mark.parametrize("use_cache", [True, False])
def test_sampling_depends_on_the_seed_alone(use_cache):
    model, prompts = trained_like(CASES[5]), prompts_of([2, 3, 5, 2])

    def draw(**knobs):
        return generate(
            model, prompts, stop=(), use_cache=use_cache, **{"temperature": 1.0, "seed": 7} | knobs
        )

    torch.manual_seed(1)
    first = draw()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert draw() == first
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone
    assert draw(seed=8) != first
    assert draw() != generate(model, prompts, stop=())
    assert draw(top_k=1) == generate(model, prompts, stop=())
    assert draw(temperature=1e-4) == generate(model, prompts, stop=())
    assert draw(top_k=99) == first  # more than there are


def test_sampling_with_and_without_cache_agrees():
    model, prompts = trained_like(CASES[7]), prompts_of([2, 3, 5])
    knobs = {"stop": (), "temperature": 0.8, "top_k": 5, "seed": 3}
    assert generate(model, prompts, **knobs) == generate(model, prompts, use_cache=False, **knobs)


def test_pick_draws_from_the_k_likeliest_with_their_probabilities():
    logits = torch.tensor([3.0, 1.0, 2.0, -1.0]).log_softmax(-1).expand(4000, 4)
    assert pick_next(logits[:2], 0.0, None, None).tolist() == [0, 0]

    def shares(temperature, top_k):
        choices = pick_next(logits, temperature, top_k, torch.Generator().manual_seed(0))
        return torch.bincount(choices, minlength=4) / 4000

    torch.testing.assert_close(shares(1.0, None), logits[0].softmax(-1), atol=0.03, rtol=0)
    torch.testing.assert_close(shares(2.0, None), (logits[0] / 2).softmax(-1), atol=0.03, rtol=0)
    two = shares(1.0, 2)
    assert two[1] == two[3] == 0
    torch.testing.assert_close(two[[0, 2]], logits[0, [0, 2]].softmax(-1), atol=0.03, rtol=0)


def test_nothing_asked_nothing_answered():
    assert generate(trained_like(CASES[0]), []) == []


@pytest.mark.parametrize(
    ("prompts", "knobs", "message"),
    [
        ([[2]], {"temperature": -0.5}, "temperature must be 0"),
        ([[2]], {"top_k": 0}, "top_k must be at least 1, not 0"),
        ([[2], []], {}, "prompt 1 has 0 characters; the model reads 1 to 13"),
        ([[2] * 14], {}, "prompt 0 has 14 characters; the model reads 1 to 13"),
    ],
)
def test_generate_refuses(prompts, knobs, message):
    with pytest.raises(ValueError, match=message):
        generate(trained_like(CASES[0]), prompts, **knobs)


@pytest.mark.parametrize("training", [True, False])
def test_decoding_is_without_dropout_or_gradients_and_leaves_the_mode_as_it_was(training):
    model, prompts = trained_like(CASES[0], dropout=0.5), prompts_of([2, 4])
    model.train(training)
    first = generate(model, prompts, stop=())
    assert model.training is training
    assert first == generate(trained_like(CASES[0]), prompts, stop=())
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(IndexError):
        generate(model, [[2, V]])  # no such character
    assert model.training is training  # after an error too


# ---------------------------------------------------------------- answer


def scripted(vocab, script, block_size=24):
    """A model that writes `script` after its first ⁇, whatever was asked."""
    model = trained_like(("vanilla", block_size, 1), vocab_size=len(vocab), n_layer=1)

    def logits_after(ids):
        said = len(ids) - 1 - ids.index(vocab.mask_id) if vocab.mask_id in ids else 0
        return torch.eye(len(vocab))[vocab.encode(script)[min(said, len(script) - 1)]]

    class Scripted(GPT):
        def hidden(self, idx, positions=None, cache=None):
            """One-hot rows that the identity below hands on as logits."""
            texts = idx.tolist()
            if cache is not None:
                at = torch.arange(idx.size(1))[None] if positions is None else positions
                if not hasattr(cache, "texts"):
                    cache.texts = torch.zeros(len(idx), block_size).long()
                    cache.keep_rows = lambda rows: setattr(cache, "texts", cache.texts[rows])
                cache.texts.scatter_(1, at.expand_as(idx), idx)
                texts = cache.texts.tolist()
            at = torch.arange(idx.size(1))[None] if positions is None else positions
            rows = zip(texts, at.expand_as(idx).tolist(), strict=True)
            return torch.stack(
                [torch.stack([logits_after(text[: t + 1]) for t in row]) for text, row in rows]
            )

    model.head = torch.nn.Identity()
    model.head.weight = torch.zeros(1)
    model.__class__ = Scripted
    return model


VOCAB = CharVocab("\n ?LPabdehnoriswW.")
QUESTIONS = ["Where was Pob?", "Where?", "W?"]


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(
    ("script", "said"),
    [("London⁇Paris", "London"), ("Paris□□", "Paris"), ("⁇", ""), ("□Paris", "")],
)
def test_an_answer_ends_at_mask_or_pad(script, said, use_cache):
    assert answer(scripted(VOCAB, script), VOCAB, QUESTIONS, use_cache=use_cache) == [said] * 3


@pytest.mark.parametrize("use_cache", [True, False])
def test_an_answer_ends_at_the_blocks_end_or_at_max_new(use_cache):
    model = scripted(VOCAB, "o")
    lengths = [
        24 - len(q) for q in QUESTIONS
    ]  # the ⁇ takes one place, the last character needs none
    assert [len(a) for a in answer(model, VOCAB, QUESTIONS, use_cache=use_cache)] == lengths
    assert answer(model, VOCAB, QUESTIONS, max_new=2, use_cache=use_cache) == ["oo"] * 3


@pytest.mark.parametrize("case", [CASES[0], CASES[6]], ids=lambda case: case[0])
def test_answers_are_the_greedy_continuations_of_question_and_mask(case):
    model = trained_like((case[0], 18, 6), vocab_size=len(VOCAB))
    expected = [VOCAB.decode(by_hand(model, [*VOCAB.encode(q), 1], 99)) for q in QUESTIONS]
    assert any(expected)
    for size in (2, 512):
        assert answer(model, VOCAB, QUESTIONS, batch_size=size) == expected
    assert answer(model, VOCAB, QUESTIONS[::-1]) == expected[::-1]
    assert answer(model, VOCAB, []) == []


def test_sampled_answers_depend_on_the_seed():
    model = trained_like(("rope", 18, 8), vocab_size=len(VOCAB), n_layer=1)

    def draw(**knobs):
        return answer(model, VOCAB, QUESTIONS * 2, temperature=1.5, **knobs)

    assert draw(seed=1) == draw(seed=1) != draw(seed=2)
    assert draw(seed=1, top_k=1) == answer(model, VOCAB, QUESTIONS * 2)
    assert draw(seed=1, batch_size=5) == draw(
        seed=1, batch_size=128
    )  # each question has its own draws


def test_a_question_too_long_for_the_block_is_named():
    model = trained_like(("vanilla", 13, 13), vocab_size=len(VOCAB))
    fits = "Where was P?"  # 12 characters and ⁇
    assert len(answer(model, VOCAB, [fits])) == 1
    with pytest.raises(ValueError, match=r"'Where was Po\?' has 14 characters; the model reads 13"):
        answer(model, VOCAB, [fits, "Where was Po?"])


def test_an_unknown_character_is_named():
    with pytest.raises(ValueError, match="'Z'"):
        answer(trained_like(CASES[0], vocab_size=len(VOCAB)), VOCAB, ["Z?"])
