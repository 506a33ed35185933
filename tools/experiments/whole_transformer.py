"""Run the long experiments of chapter 9 with several seeds; about 8 minutes on one core.

python tools/experiments/whole_transformer.py [--parts lengths memory residuals tasks]

lengths    reversed words by length: size of the context vector, training steps, attention
memory     naming the first of T letters: plain RNN, GRU, LSTM
residuals  2 + 2 and 6 + 6 blocks: pre-norm, post-norm, and no residual connections
tasks      the four tasks of the chapter, and where their cross-attention points

The classes and the loop are those that the notebook shows.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import kt_core as kt
from kt_core.attention import masked_softmax
from kt_core.corpora.files import write_json
from kt_core.runs.checkpoints import hardware
from kt_course.chapters.the_whole_transformer import toys
from kt_course.chapters.the_whole_transformer.alignment import cross_maps, pointing_score
from kt_course.chapters.the_whole_transformer.seq2seq import Memory, Seq2SeqConfig
from kt_course.chapters.the_whole_transformer.solutions import (
    DecoderBlock,
    EncoderBlock,
    Transformer,
    teacher_forcing,
    write,
)

LENGTHS = range(3, 11)


class Recurrent(nn.Module):
    """A GRU that reads and a GRU that writes, with or without attention."""

    def __init__(self, source_vocab, target_vocab, n_hidden=128, attention=False):
        super().__init__()
        self.source_emb = nn.Embedding(source_vocab, 64)
        self.target_emb = nn.Embedding(target_vocab, 64)
        self.encoder = nn.GRU(64, n_hidden, batch_first=True)
        self.decoder = nn.GRU(64, n_hidden, batch_first=True)
        self.score = nn.Linear(n_hidden, n_hidden, bias=False) if attention else None
        self.mix = nn.Linear(2 * n_hidden, n_hidden) if attention else None
        self.head = nn.Linear(n_hidden, target_vocab, bias=False)

    def encode(self, source):
        states, _ = self.encoder(self.source_emb(source))  # (B, S, H): h_1 ... h_S
        mask = source != 0
        ends = mask.sum(dim=1) - 1  # the last token of each row, before its padding
        last = states[torch.arange(len(source), device=source.device), ends]
        return Memory(states, mask, last[None])  # last is the context vector c

    def decode(self, inputs, memory):
        states, _ = self.decoder(self.target_emb(inputs), memory.last)  # (B, T, H): s_1 ... s_T
        if self.score is not None:
            context = self.weights(states, memory) @ memory.states  # (B, T, H): c_t
            states = torch.tanh(self.mix(torch.cat([context, states], dim=-1)))
        return self.head(states)

    def weights(self, states, memory):
        scores = states @ self.score(memory.states).transpose(1, 2)  # (B, T, S): s_t · W h_j
        return masked_softmax(scores, memory.mask[:, None])  # each row sums to 1


def train(model, toy, pairs, steps, rate, seed=0, warmup=20):
    """Train with AdamW on random batches of 64 pairs; return the loss of every step."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    device, rng, losses = next(model.parameters()).device, random.Random(seed), []
    for step in range(steps):
        fall = min(1, (step + 1) / warmup, 1.25 - 1.25 * step / steps)  # warm-up, then decay
        optimizer.param_groups[0]["lr"] = rate * fall
        source, target = (ids.to(device) for ids in toy.tensors(rng.choices(pairs, k=64)))
        inputs, labels = teacher_forcing(target)
        logits = model.decode(inputs, model.encode(source))  # (B, T + 1, V)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def score_pairs(model, toy, pairs):
    """Count the answers that are correct from the first token to the last."""
    source, _ = toy.tensors(pairs)
    answers = [toy.text(toy.target_vocab.decode(ids)) for ids in write(model, source, 30)]
    return kt.exact_match(answers, [toy.text(pair.target) for pair in pairs])


# ---------------------------------------------------------------- the four parts


def lengths(seeds):
    """Accuracy by length for three sizes, three numbers of steps, and with attention."""
    toy = toys.reverse(3, 10)
    pairs, _ = toy.split(10_000, 1, 0)
    used = {pair.source for pair in pairs}
    drawn = {n: toys.reverse(n, n).pairs(220, seed=1) for n in LENGTHS}
    tests = {n: [p for p in drawn[n] if p.source not in used][:200] for n in LENGTHS}
    settings = [(False, size, steps) for size in (32, 64, 128) for steps in (250, 1000, 2000)]
    rows = []
    for attention, size, steps in [*settings, (True, 128, 250)]:
        for seed in seeds:
            torch.manual_seed(seed)
            model = Recurrent(29, 29, size, attention)
            losses = train(model, toy, pairs, steps, 4e-3, seed)
            correct = [score_pairs(model, toy, tests[n]).correct for n in LENGTHS]
            facts = dict(attention=attention, size=size, steps=steps, seed=seed)
            rows.append(facts | dict(last_loss=sum(losses[-50:]) / 50, correct=correct))
            print(rows[-1], flush=True)
    return dict(lengths=list(LENGTHS), n=200, letters=26, rows=rows)


class FirstLetter(nn.Module):
    """Read T letters and name the first of them."""

    def __init__(self, cell, n_hidden=64):
        super().__init__()
        self.emb, self.head = nn.Embedding(26, 32), nn.Linear(n_hidden, 26)
        self.cell = cell(32, n_hidden, batch_first=True)
        if cell is nn.LSTM:  # a forget gate that starts open: about 1 of its bias
            self.cell.bias_ih_l0.data[n_hidden : 2 * n_hidden] = 1.0

    def forward(self, letters):
        return self.head(self.cell(self.emb(letters))[0][:, -1])


def memory(seeds, steps=500):
    """Accuracy after T letters, for each kind of recurrent cell."""
    rows = []
    for T in (5, 10, 15, 25):
        for name, cell in dict(RNN=nn.RNN, GRU=nn.GRU, LSTM=nn.LSTM).items():
            for seed in seeds:
                torch.manual_seed(seed)
                model, generator = FirstLetter(cell), torch.Generator().manual_seed(seed)
                optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
                for _ in range(steps):
                    letters = torch.randint(26, (64, T), generator=generator)
                    loss = F.cross_entropy(model(letters), letters[:, 0])
                    optimizer.zero_grad()
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                letters = torch.randint(26, (500, T), generator=generator)
                with torch.no_grad():
                    correct = int((model(letters).argmax(-1) == letters[:, 0]).sum())
                rows.append(dict(cell=name, T=T, seed=seed, correct=correct))
                print(rows[-1], flush=True)
    return dict(n=500, steps=steps, n_hidden=64, rows=rows)


def without_residuals(model):
    """Exchange the blocks' forward passes for ones that replace the stream instead of adding."""

    def encode(block, x, mask=None):
        return block.ff(block.ln2(block.attn(block.ln1(x), mask=mask)))

    def decode(block, x, memory, mask=None):
        x = block.self_attn(block.ln1(x), mask=kt.causal_mask(x.size(1)))
        return block.ff(block.ln3(block.cross_attn(block.ln2(x), memory, mask=mask)))

    for block in model.modules():
        if isinstance(block, EncoderBlock):
            block.forward = encode.__get__(block)
        if isinstance(block, DecoderBlock):
            block.forward = decode.__get__(block)
    return model


def residuals(seeds, steps=200):
    """Accuracy on short words, at the full learning rate from the first step on."""
    toy, rows = toys.reverse(3, 6), []
    pairs, tests = toy.split(4000, 200, 0)
    for blocks in (2, 6):
        for kind in ("pre", "post", "none"):
            for seed in seeds:
                torch.manual_seed(seed)
                norm = "post" if kind == "post" else "pre"
                model = Transformer(Seq2SeqConfig(29, 29, blocks, blocks, 2, 32, 64, norm))
                model = without_residuals(model) if kind == "none" else model
                losses = train(model, toy, pairs, steps, 4e-3, seed, warmup=1)
                correct = score_pairs(model, toy, tests).correct
                facts = dict(blocks=blocks, residual=kind, seed=seed, correct=correct)
                rows.append(facts | dict(last_loss=sum(losses[-20:]) / 20))
                print(rows[-1], flush=True)
    return dict(n=len(tests), steps=steps, rows=rows)


TASKS = {
    "reverse": (lambda: toys.reverse(3, 10), 400),
    "dates": (lambda: toys.dates(slashed=0.2), 400),
    "translate": (lambda: toys.translate(), 350),
    "summarise": (lambda: toys.summarise(sentences=2), 400),
}


def tasks(seeds):
    """Exact matches, and the share of target tokens whose largest weight is on a right source."""
    rows = []
    for name, (make, steps) in TASKS.items():
        toy = make()
        pairs, tests = toy.split(15_000, 400, 0)
        tests = [pair for pair in tests if "/" not in pair.source]
        for seed in seeds:
            torch.manual_seed(seed)
            model = Transformer(Seq2SeqConfig(len(toy.source_vocab), len(toy.target_vocab)))
            train(model, toy, pairs, steps, 4e-3, seed)
            score = score_pairs(model, toy, tests)
            maps = cross_maps(model, toy, tests[:200])
            points = [pointing_score(block, tests[:200]).as_dict() for block in maps]
            facts = dict(task=name, seed=seed, correct=score.correct, n=score.total, steps=steps)
            rows.append(facts | dict(pointing=points))
            print(rows[-1], flush=True)
    return dict(rows=rows)


def main() -> None:
    """Run the parts that are asked for, and add them to the results file."""
    parts = dict(lengths=lengths, memory=memory, residuals=residuals, tasks=tasks)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("data/results/whole-transformer.json"))
    options = parser.parse_args()
    facts = json.loads(options.out.read_text("utf-8")) if options.out.exists() else {}
    for name in options.parts:
        began = time.perf_counter()
        facts[name] = parts[name](options.seeds)
        facts[name]["seconds"] = round(time.perf_counter() - began)
        write_json(options.out, facts | dict(hardware=hardware("cpu")))


if __name__ == "__main__":
    main()
