"""Answers to the exercises of notebook 13, right and wrong: every mistake gets its name."""

import torch
import torch.nn.functional as F
from checking import Answers, notebook_suite, quiz_suite, suite

from kt_course.chapters.vision_transformer import exercises, vision
from kt_course.exercises.diagnoses import diagnoses


def variants_of(id, reference):
    """The reference with each mistake that the check recognises: name -> function."""
    variants = diagnoses(exercises.__file__, id).variants(reference)
    return {name: variant for name, (variant, _) in variants.items()}


CUT = variants_of("patchify", vision.patchify)
CONVOLVED = variants_of("patch-convolution", vision.patch_convolution)
EMBEDDED = variants_of("vit-embed", vision.ViT.embed)
ROLLED = variants_of("attention-rollout", vision.attention_rollout)

# ---------------------------------------------------------------- tokens


def stub_tokens(config):
    """A whole number."""
    ...


def counted(grid, with_token=lambda config: config.pool == "class"):
    """Tokens from a number of patches and a rule for the class token."""
    return lambda config: grid(config) + with_token(config)


def side(config):
    return config.image_size // config.patch_size


TOKENS = Answers(
    stub=stub_tokens,
    wrong={
        "one side": (counted(side), "5 is the patches along one side and the class token"),
        "one side alone": (counted(side, lambda c: 0), "4 is the number of patches along one side"),
        "no class token": (
            counted(lambda c: side(c) ** 2, lambda c: 0),
            "the class token is one more",
        ),
        "token always": (counted(lambda c: side(c) ** 2, lambda c: 1), "pool mean it gives 17"),
        "pixels": (counted(lambda c: c.image_size**2), "145 counts the pixels"),
        "pixels over side": (counted(lambda c: c.image_size**2 // c.patch_size), "49 = 144 / 3"),
        "a float": (counted(lambda c: (c.image_size / c.patch_size) ** 2), "divide with //"),
        "channels": (counted(lambda c: c.channels * side(c) ** 2), "3 channels it gives 48"),
        "a table": (counted(lambda c: {4: 16}.get(side(c), 16)), "not for other sizes"),
        "twice the token": (
            counted(lambda c: side(c) ** 2, lambda c: 2 * (c.pool == "class")),
            "make 17, not 18",
        ),
    },
    right={
        "from pixels": counted(lambda c: c.image_size**2 // c.patch_size**2),
        "as the properties have it": lambda c: c.n_patches + {"class": 1, "mean": 0}[c.pool],
    },
    borrowed=lambda config: config.n_tokens,
)

# ---------------------------------------------------------------- patches


def stub_patchify(images, patch_size): ...


def by_unfold(images, patch_size):
    return F.unfold(images, patch_size, stride=patch_size).mT


def by_slices(images, patch_size):
    H, W = images.shape[-2:]
    corners = [(i, j) for i in range(0, H, patch_size) for j in range(0, W, patch_size)]
    squares = [images[..., i : i + patch_size, j : j + patch_size] for i, j in corners]
    return torch.stack([square.flatten(1) for square in squares], dim=1)


def by_tensor_unfold(images, patch_size):
    windows = images.unfold(2, patch_size, patch_size).unfold(
        3, patch_size, patch_size
    )  # (B, c, G, G, p, p)
    return windows.permute(0, 2, 3, 1, 4, 5).reshape(
        len(images), -1, images.size(1) * patch_size**2
    )


def squares_alone(images, patch_size):
    """Right for pictures as wide as they are high."""
    B, c, H, _ = images.shape
    x = images.reshape(B, c, H // patch_size, patch_size, H // patch_size, patch_size)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(B, -1, c * patch_size**2)


def in_place(images, patch_size):
    images.mul_(1.0)
    return by_slices(images, patch_size)


def one_channel(images, patch_size):
    B, c, H, W = images.shape
    x = images.reshape(B * c, H // patch_size, patch_size, W // patch_size, patch_size)
    return x.transpose(2, 3).reshape(B, -1, c * patch_size**2)


PATCHIFY = Answers(
    stub=stub_patchify,
    wrong={
        "strips": (CUT["strips"], "strips of rows"),
        "columns first": (CUT["columns first"], "column by column"),
        "turned": (CUT["turned"], "mirrored"),
        "channels last": (CUT["channels last"], "channel comes first"),
        "transposed": (lambda x, p: F.unfold(x, p, stride=p), "transposed"),
        "overlapping": (
            lambda x, p: F.unfold(x, p).mT,
            r"has the shape \(2, 15, 4\) instead of \(2, 6, 4\)",
        ),
        "not flat": (
            lambda x, p: by_unfold(x, p).unflatten(-1, (x.size(1), p, p)),
            "belong in one row",
        ),
        "squares alone": (squares_alone, "your code raised RuntimeError"),
        "in place": (in_place, "changes its argument images in place"),
        "channels as patches": (one_channel, "the patches differ"),
        "a patch of 2": (lambda x, p: by_slices(x, 2), r"instead of \(1, 4, 27\)"),
    },
    right={"F.unfold": by_unfold, "Tensor.unfold": by_tensor_unfold, "slices": by_slices},
    borrowed=lambda images, patch_size: vision.patchify(images, patch_size),
)

# ---------------------------------------------------------------- as a convolution


def stub_convolution(images, weight, bias, patch_size): ...


def grid_kept(images, weight, bias, p):
    return F.conv2d(images, weight.view(len(weight), -1, p, p), bias, stride=p)


def by_module(images, weight, bias, p):
    layer = torch.nn.Conv2d(images.size(1), len(weight), p, p, dtype=images.dtype)
    layer.load_state_dict({"weight": weight.view_as(layer.weight), "bias": bias})
    return torch.einsum("bcij->bijc", layer(images)).flatten(1, 2)


CONVOLUTION = Answers(
    stub=stub_convolution,
    wrong={
        "no bias": (CONVOLVED["no bias"], "the bias is missing"),
        "channels last": (CONVOLVED["channels last"], "mixes channels and pixels"),
        "flipped": (CONVOLVED["flipped"], "does not flip"),
        "turned": (CONVOLVED["turned"], "rows and columns of the kernel"),
        "columns first": (CONVOLVED["columns first"], "column by column"),
        "reshaped": (CONVOLVED["reshaped"], "mixes channels and patches"),
        "grid kept": (grid_kept, "become a sequence"),
        "not transposed": (lambda *args: grid_kept(*args).flatten(2), "become a sequence"),
        "stride of 1": (
            lambda x, w, b, p: F.conv2d(x, w.view(len(w), -1, p, p), b).flatten(2).mT,
            "pixel by pixel",
        ),
        "one channel": (
            lambda x, w, b, p: grid_kept(x[:, :1], w, b, p).flatten(2).mT,
            "your code raised RuntimeError",
        ),
        "a kernel of 2": (
            lambda x, w, b, p: by_module(x, w, b, 2),
            "your code raised RuntimeError|raised",
        ),
    },
    right={
        "a Conv2d": by_module,
        "patches first": lambda x, w, b, p: F.linear(by_unfold(x, p), w, b),
    },
    borrowed=lambda *args: vision.patch_convolution(*args),
)

# ---------------------------------------------------------------- the first tokens


def stub_embed(model, patches): ...


def no_token(model, patches):
    x = model.patch_emb(patches)
    return x if model.pos_emb is None else x + model.pos_emb[:, -x.size(1) :]


def always_positions(model, patches):
    x = model.patch_emb(patches)
    if model.class_token is not None:
        x = torch.cat([model.class_token.expand(len(x), -1, -1), x], 1)
    return x + model.pos_emb


def one_picture(model, patches):
    return written_into(model, patches[:3].expand(3, -1, -1))


def all_at_once(model, patches):
    x = F.linear(patches, model.patch_emb.weight, model.patch_emb.bias)
    front = [] if model.class_token is None else [model.class_token.repeat(len(x), 1, 1)]
    return torch.cat([*front, x], 1) + (0 if model.pos_emb is None else model.pos_emb)


def written_into(model, patches):
    front = 0 if model.class_token is None else 1
    x = patches.new_zeros(len(patches), patches.size(1) + front, model.config.n_embd)
    x[:, front:] = F.linear(patches, model.patch_emb.weight, model.patch_emb.bias)
    if front:
        x[:, 0] = model.class_token[0, 0]
    if model.pos_emb is not None:
        x += model.pos_emb
    return x


EMBED = Answers(
    stub=stub_embed,
    wrong={
        "no bias": (EMBEDDED["no bias"], "bias of the patch embedding"),
        "no positions": (EMBEDDED["no positions"], "positions are not added"),
        "token without": (EMBEDDED["token without"], "has a position of its own"),
        "one too early": (EMBEDDED["one too early"], "gets the class token's position"),
        "at the end": (EMBEDDED["at the end"], "comes at the end"),
        "token added": (EMBEDDED["token added"], "added to every patch"),
        "one vector": (EMBEDDED["one vector"], "position of token 0"),
        "twice": (EMBEDDED["twice"], "added twice"),
        "no token": (no_token, "4 tokens for 4 patches"),
        "always positions": (always_positions, "positions none|your code raised TypeError"),
        "three pictures": (one_picture, "not for another number"),
        "patches as they are": (lambda model, patches: patches, "shape"),
    },
    right={"written into zeros": written_into, "at once": all_at_once},
    borrowed=lambda model, patches: model.embed(patches),
)

# ---------------------------------------------------------------- rollout


def stub_rollout(maps): ...


def one_picture_alone(maps):
    return by_recursion([m[:1] for m in maps])


def by_recursion(maps):
    *before, last = maps
    layer = 0.5 * (last.mean(1) + torch.eye(last.size(-1)))
    return layer @ by_recursion(before) if before else layer


def by_row(maps):
    """A row vector at a time, from the last layer down."""
    T = maps[0].size(-1)
    rows = []
    for t in range(T):
        row = torch.zeros(len(maps[0]), T, dtype=maps[0].dtype)
        row[:, t] = 1
        for m in reversed(maps):
            row = (row + torch.einsum("bi,bhij->bj", row, m) / m.size(1)) / 2
        rows.append(row)
    return torch.stack(rows, 1)


ROLLOUT = Answers(
    stub=stub_rollout,
    wrong={
        "no residual": (ROLLED["no residual"], "residual is missing"),
        "whole": (ROLLED["whole"], "has to be halved"),
        "sum": (ROLLED["sum"], "take their mean"),
        "max": (ROLLED["max"], "largest head"),
        "first head": (ROLLED["first head"], "one head alone"),
        "backwards": (ROLLED["backwards"], "wrong order"),
        "transposed": (ROLLED["transposed"], "transposed"),
        "entries": (ROLLED["entries"], "one by one"),
        "last layer": (ROLLED["last layer"], "last layer alone"),
        "mean": (ROLLED["mean"], "layers are averaged"),
        "one picture": (one_picture_alone, r"\(1, 4, 4\) instead of \(2, 4, 4\)"),
        "heads kept": (lambda maps: maps[0] @ maps[1], r"\(2, 2, 4, 4\) instead of"),
        "three layers": (lambda maps: by_recursion(maps[:3]), "not for other numbers of layers"),
    },
    right={"recursion": by_recursion, "a row at a time": by_row},
    borrowed=lambda maps: vision.attention_rollout(maps),
)

ANSWERS = {
    "vit-tokens": TOKENS,
    "patchify": PATCHIFY,
    "patch-convolution": CONVOLUTION,
    "vit-embed": EMBED,
    "attention-rollout": ROLLOUT,
}
TestExercises = suite("13_vision_transformer", ANSWERS)
TestQuizzes = quiz_suite("13_vision_transformer")
TestNotebook = notebook_suite("13_vision_transformer")


def test_right_answers_fit_into_the_model():
    """What the exercises give back takes the place of the model's own parts."""
    torch.manual_seed(0)
    model = vision.ViT(vision.ViTConfig(zero_init=False)).eval()
    model.pos_emb.data.normal_()
    images = torch.rand(3, 1, 8, 8)
    expected = model(images)[0]
    model.embed = lambda patches: written_into(model, patches)
    torch.testing.assert_close(model(images)[0], expected)
    by_hand = model.encode(by_unfold(images, 2))[:, 0]
    torch.testing.assert_close(model.head(by_hand), expected)
