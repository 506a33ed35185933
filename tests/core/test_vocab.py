import pytest

from kt_core.vocab import MASK, PAD, CharVocab


def test_specials_come_first_then_sorted_characters():
    vocab = CharVocab.from_documents(["zebra", "Äpfel"])
    assert vocab.chars[:2] == (PAD, MASK) == ("□", "⁇")
    assert (vocab.pad_id, vocab.mask_id) == (0, 1)
    assert list(vocab.chars[2:]) == sorted(set("zebraÄpfel") | set("\nWhere was born?"))
    assert len(vocab) == len(vocab.chars)


def test_order_of_the_documents_does_not_matter():
    a, b = CharVocab.from_documents(["abc", "xyz"]), CharVocab.from_documents(["xyz", "abc", "abc"])
    assert a == b and hash(a) == hash(b)
    assert a != CharVocab.from_documents(["abc"]) and a != "abc"


def test_newline_and_question_are_always_there():
    vocab = CharVocab.from_documents([])
    assert "\n" in vocab and vocab.encode("Where was born?")


def test_encode_decode_round_trip():
    vocab = CharVocab.from_documents(["Zoë. Born in Kraków."])
    text = "Where was Zoë born?⁇Kraków⁇□□"
    assert vocab.decode(vocab.encode(text)) == text
    assert vocab.encode("□⁇") == [0, 1]
    assert vocab.encode("") == [] and vocab.decode([]) == ""


def test_decode_takes_a_tensor():
    torch = pytest.importorskip("torch")
    vocab = CharVocab("ab")
    assert vocab.decode(torch.tensor([2, 3, 1, 0])) == "ab⁇□"


def test_unknown_character_is_named_with_its_position():
    with pytest.raises(ValueError, match=r"'é' \(U\+00E9\) at position 3 of 'café'"):
        CharVocab("cafe").encode("café")


@pytest.mark.parametrize("bad", [-1, 4])
def test_decode_refuses_ids_outside(bad):
    with pytest.raises(ValueError, match=f"id {bad} at position 1: ids are 0 to 3"):
        CharVocab("ab").decode([2, bad])


@pytest.mark.parametrize("special", [PAD, MASK])
def test_documents_must_not_hold_the_specials(special):
    with pytest.raises(ValueError, match=f"document 1 holds '{special}' at position 2"):
        CharVocab.from_documents(["fine", "ab" + special])
    with pytest.raises(ValueError, match="ids 0 and 1"):
        CharVocab(["a", special])


def test_constructor_is_validated():
    with pytest.raises(ValueError, match=r"chars\[1\] is 'bc'"):
        CharVocab(["a", "bc"])
    with pytest.raises(ValueError, match=r"given twice: \['a'\]"):
        CharVocab("aba")
    with pytest.raises(ValueError, match="not one string"):
        CharVocab.from_documents("abc")


def test_chars_cannot_be_changed_from_outside():
    vocab = CharVocab("ab")
    assert len(vocab) == 4 and vocab.chars == (PAD, MASK, "a", "b")
    assert CharVocab(vocab.chars[2:]) == vocab
