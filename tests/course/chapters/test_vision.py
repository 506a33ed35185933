"""Chapter 13: images of digits, baselines, and the living view of attention."""

import base64
import itertools

import numpy as np
import pytest
import torch
from browsing import axe_findings, chromium, cut_off, missing, tab

from kt_course.chapters.vision_transformer import baselines, composites, solutions
from kt_course.chapters.vision_transformer.patch_view import explore_patches, packed


def random(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits():
    return composites.load_digits()


def test_the_parts_are_scikit_learns_digits_each_once(digits):
    from sklearn import datasets

    theirs = datasets.load_digits()
    assert [len(part) for part in digits.values()] == [1077, 360, 360]
    ours = torch.cat([part.images for part in digits.values()]).flatten(1)
    pixels = sorted(map(tuple, (ours * 16).round().int().tolist()))
    assert pixels == sorted(map(tuple, theirs.data.astype(int).tolist()))
    classes = {
        tuple(row): label
        for row, label in zip(theirs.data.astype(int).tolist(), theirs.target, strict=True)
    }
    for part in digits.values():
        for k in range(10):
            rows = part.images[part.first[k] : part.first[k] + part.count[k]]
            assert {classes[tuple(row)] for row in (rows * 16).int().flatten(1).tolist()} == {k}


def test_an_image_has_one_odd_digit_and_cells_that_hold_whole_digits(digits):
    data = composites.odd_one_out(digits["dev"], 300, random())
    assert data.images.shape == (300, 1, 30, 30) and len(data) == 300
    for classes, answer in zip(data.classes.tolist(), data.answer.tolist(), strict=True):
        common = classes[(answer + 1) % 9]
        assert classes[answer] != common and classes.count(common) == 8
    assert set(data.answer.tolist()) == set(range(9)) and set(
        data.classes.flatten().tolist()
    ) == set(range(10))
    pixels = {tuple(row) for row in (digits["dev"].images * 16).int().flatten(1).tolist()}
    cells = solutions.patchify(data.images[:20], composites.CELL).view(-1, 10, 10)
    for cell in cells:  # the digit is one of dev, at one of nine places
        places = itertools.product(range(3), repeat=2)
        assert any(
            tuple((cell[a : a + 8, b : b + 8] * 16).int().flatten().tolist()) in pixels
            for a, b in places
        )


def test_images_repeat_from_their_seed(digits):
    one, two, other = (composites.odd_one_out(digits["dev"], 5, random(s)) for s in (1, 1, 2))
    assert torch.equal(one.images, two.images) and not torch.equal(one.images, other.images)
    assert (composites.random_digits(digits["dev"], 5, random()).answer == -1).all()


def test_the_rule_finds_the_odd_one_among_certain_names(digits):
    classes = composites.odd_one_out(digits["dev"], 200, random())
    logits = 5.0 * torch.nn.functional.one_hot(classes.classes, 10)
    assert torch.equal(baselines.name_and_count(logits), classes.answer)


def test_uniform_attention_is_full_attention_with_equal_weights():
    layer, x = baselines.UniformAttention(8, 2), torch.randn(2, 5, 8)
    same = solutions.FullAttention(8, 2)
    same.load_state_dict(layer.state_dict())
    with torch.no_grad():
        same.query.weight.zero_()
        same.query.bias.zero_()  # all scores are 0
    torch.testing.assert_close(layer(x), same(x))


def test_the_cnn_has_one_vector_per_cell():
    model, images = baselines.CNN(9), torch.rand(2, 1, 30, 30)
    assert model.encode(images).shape == (2, 9, 64) and model(images).shape == (2, 9)


# ---------------------------------------------------------------- the living view


@pytest.fixture(scope="module")
def maps():
    return [(2 * torch.randn(3, 2, 10, 10, generator=random(i))).softmax(-1) for i in range(2)]


@pytest.fixture(scope="module")
def view(digits, maps):
    data = composites.odd_one_out(digits["dev"], 3, random())
    return explore_patches(data.images, maps, data.answer, ["first", "second", "third"])


def test_the_view_carries_the_maps(view, maps):
    data = view.given()["data"]
    weights = np.frombuffer(base64.b64decode(data["weights"]), np.uint8).reshape(3, 2, 2, 10, 10)
    np.testing.assert_allclose(weights[:, 1] / 255, maps[1], atol=0.003)
    assert (data["grid"], data["layers"], data["heads"], data["side"]) == (3, 2, 2, 30)
    assert base64.b64decode(packed(np.array([0.0, 1.0]))) == b"\x00\xff"


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_clicks_and_arrow_keys_choose_the_query_without_a_network(view, maps, tmp_path):
    path = tmp_path / "view.html"
    path.write_text(view.to_html("Patches"), encoding="utf-8")
    weights = maps[1][0].mean(0)
    with chromium() as browser, tab(browser, 900, 700, path.as_uri()) as page:
        page.goto(path.as_uri())
        page.locator("[data-ready]").wait_for()
        status = page.locator(".kt-status")

        def attends_to(token):
            best = int(weights[token].argmax())
            name = f"patch ({(best - 1) // 3}, {(best - 1) % 3})" if best else "class token"
            query = f"Patch ({(token - 1) // 3}, {(token - 1) % 3})" if token else "Class token"
            page.wait_for_function(
                "([query, best]) => document.querySelector('.kt-status').innerText"
                ".startsWith(`${query} attends most to: ${best}`)",
                arg=[query, name],
            )

        attends_to(0)
        page.locator(".kt-patch").nth(5).click()
        attends_to(5)
        page.keyboard.press("ArrowRight")
        attends_to(6)
        values = page.evaluate("kt.patchWeights(0, 1, 'mean', 6)")
        np.testing.assert_allclose(values, weights[6], atol=0.003)
        before = status.inner_text()
        page.get_by_label("layer 0, head 1").click()
        page.wait_for_function(
            "before => document.querySelector('.kt-status').innerText !== before", arg=before
        )
        page.locator("select").first.select_option("1")
        page.get_by_text("second", exact=True).wait_for()
        assert cut_off(page) == [] and axe_findings(page) == []
        assert not page.strays and not page.problems
