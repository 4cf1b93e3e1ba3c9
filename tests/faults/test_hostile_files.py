"""Cards and released files that were made to do harm: refused in one sentence, at once, and nothing runs."""

import json
import pickle
import struct
import zipfile
from contextlib import suppress

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file, save_file
from torch import nn

from zolab.pertnn import SHIPPED_FINETUNERS, PertNN
from zolab.pertnn.published import import_published
from zolab.probe.blocks import split
from zolab.records.sealed import seal

# ---- released files


def stored(path, program, storages=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("x/data.pkl", program)
        for key, content in enumerate(storages):
            file.writestr(f"x/data/{key}", content)
    return path


def unicode(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def nested(depth):
    """A dictionary whose key is a tuple in a tuple in a tuple: to hash it overflows the stack."""
    return b"\x80\x02})" + b"\x85" * depth + b"Ns."


def doubled(times):
    """A key made of itself twice, over and over: to hash or to print it takes 2^times steps."""
    return b"\x80\x02})" + b"q\x00h\x00\x86" * times + b"Ns."


def as_a_value(times):
    return b"\x80\x02}" + unicode("a") + b")" + b"q\x00h\x00\x86" * times + b"s."


@pytest.mark.parametrize(
    "program",
    [nested(1000), nested(60_000), doubled(40), as_a_value(60), b"\x80\x02}" + unicode("a") + doubled(60)[2:-1] + b"s."],
    ids=["1.1 kB", "60 kB", "224 bytes", "a value", "a set of them"],
)
def test_nested_tuples_are_neither_hashed_nor_printed(tmp_path, program):
    path = stored(tmp_path / "x.pth", program)
    refused(lambda: import_published(path, {"a": 1}), "is not a released fine-tuner")


def test_an_archive_that_claims_more_than_it_has_is_not_unpacked(tmp_path):
    bomb = stored(tmp_path / "x.pth", b"\x80\x02}.", [b"\0" * 50_000_000], zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 100_000
    refused(lambda: import_published(bomb, {"a": 1}), "its entries are compressed")
    twice = tmp_path / "twice.pth"  # a directory whose entries are all the same bytes
    stored(twice, b"\x80\x02}.", [b"\0" * 500_000])
    content = twice.read_bytes()
    start = content.rindex(b"PK\x01\x02")
    entry, end = content[start : content.rindex(b"PK\x05\x06")], content[content.rindex(b"PK\x05\x06") :]
    many = content[:start] + b"".join(entry.replace(b"data/0", b"data/%d" % i) for i in range(9))
    size, place = len(many) - content.index(b"PK\x01\x02"), content.index(b"PK\x01\x02")
    twice.write_bytes(many + end[:8] + struct.pack("<HHII", 10, 10, size, place) + end[20:])
    refused(lambda: import_published(twice, {"a": 1}), "claim more bytes than the file has")
    crowd = tmp_path / "crowd.pth"
    crowd.write_bytes(content[:start] + entry * 5000 + end)
    refused(lambda: import_published(crowd, {"a": 1}), "more entries than 1 networks need")


def test_a_file_larger_than_its_networks_need_is_not_read(tmp_path):
    path = tmp_path / "x.pth"
    with open(path, "wb") as file:
        file.truncate(12_000_000_000)  # sparse
    refused(lambda: import_published(path, {"a": 1}), "12,000,000,000 bytes, where at most")
    large = stored(path, b"\x80\x02}" + b"0}" * 200_000 + b".")
    refused(lambda: import_published(large, {"a": 1}), "its pickle has 400,004 bytes, more than 1 networks need")
    piled = stored(path, b"\x80\x02" + b"}" * 60_000 + b".")
    refused(lambda: import_published(piled, {"a": 1}), "piles up more than networks need")


def test_networks_that_share_weights_are_not_multiplied(tmp_path):
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(5, 500), nn.Tanh(), nn.Linear(500, 1))
    torch.save({str(number): one for number in range(100)}, tmp_path / "x.pth")
    refused(lambda: import_published(tmp_path / "x.pth", {str(n): 1 for n in range(100)}), "share weights")


@pytest.mark.parametrize(
    ("program", "match"),
    [
        (b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.", "it asks for os.system"),
        (b"\x80\x02c" + b"o" * 5000 + b"\nsystem\n.", r"it asks for ooo.* \.\.\."),
        (b"cbuiltins\neval\n.", "it asks for builtins.eval"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "the instruction SHORT_BINUNICODE"),
        (b"\x80\x02K\x01.", "no dictionary of networks but a int"),
        (b"\x80\x02\x85.", "its pickle is damaged"),
        (b"\x80\x02}K\x01Ns.", "something else than texts as keys"),
        (b"\x80\x02", "exhausted before seeing STOP"),
    ],
)
def test_programs_that_want_something_else(tmp_path, program, match):
    refused(lambda: import_published(stored(tmp_path / "x.pth", program), {"a": 1}), match)


def test_names_of_any_length_are_refused_in_one_sentence(tmp_path):
    network = nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1))
    torch.save({"x" * 50_000: network}, tmp_path / "x.pth")
    refused(lambda: import_published(tmp_path / "x.pth", {"a": 1}), "is for another model than sizes tells")


def test_a_pickle_that_is_no_archive(tmp_path):
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"a": 1}))
    refused(lambda: import_published(tmp_path / "x.pth", {"a": 1}), "is not a released fine-tuner")


# ---- cards


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


@pytest.fixture
def folder(tmp_path, network):
    about = {"base_model": "m", "fingerprint": "0" * 16, "training_data": "", "licence": "MIT"}
    pertnn = PertNN(split(network), 3, normalise="code", budget_weights=[1.0, 2.0, 3.0, 4.0])
    pertnn.save(tmp_path / "pertnn", **about, metrics={})
    return tmp_path / "pertnn"


def unsealed(folder, change):
    """A card as they were before they had seals, changed."""
    card = json.loads((folder / "card.json").read_text())
    card = {key: value for key, value in card.items() if key not in ("sealed", "digest", "weights")}
    change(card)
    (folder / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize("name", ["card.json", "pertnn.safetensors"])
def test_no_flipped_bit_passes(folder, name):
    path = folder / name
    content, original = path.read_bytes(), PertNN.read(folder)
    for at in range(0, 8 * len(content), max(1, 8 * len(content) // 150)):
        changed = bytearray(content)
        changed[at // 8] ^= 1 << at % 8
        path.write_bytes(changed)
        with suppress(ValueError, OSError):
            reread = PertNN.read(folder)
            assert (reread.digest(), reread.card) == (original.digest(), original.card)


def test_the_weights_of_another_pertnn_are_not_taken(folder):
    weights = load_file(folder / "pertnn.safetensors")
    weights["b2"] = weights["b2"] + 1
    save_file(weights, folder / "pertnn.safetensors")
    refused(lambda: PertNN.read(folder), "not those that the card was written for")


def test_a_card_that_lost_its_digest_was_changed(folder):
    card = json.loads((folder / "card.json").read_text())
    del card["digest"]
    (folder / "card.json").write_text(json.dumps(card))
    refused(lambda: PertNN.read(folder), "was changed after it was written")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda card: card["options"].update(hidden=10**7), "the card asks for"),
        (lambda card: card["options"].update(hidden=10**4000), "the card asks for"),
        (lambda card: card["options"].update(hidden=True), "its option hidden is True, which is no int"),
        (lambda card: card["options"].update(input_scaling="false"), "its option input_scaling is false, which is no bool"),
        (lambda card: card["options"].update(input_scaling=1), "input_scaling is 1, which is no bool"),
        (lambda card: card["options"].update(seed="7"), "seed is no option"),
        (lambda card: card["options"].update(budget_weights=[1e308] * 4), "positive finite weights"),
        (lambda card: card["options"].update(budget_weights=[1e-320] * 4), "positive finite weights"),
        (lambda card: card["options"].update(budget_weights=["1"] * 4), "budget_weights are not numbers"),
        (lambda card: card["options"].update(budget_weights=[True] * 4), "budget_weights are not numbers"),
        (lambda card: card["options"].update(budget_weights=[1.0] * 100_000), "one for each block"),
        (lambda card: card["options"].update({"x" * 100_000: 1}), "is no option"),
        (lambda card: card.update(features=["x" * 1000] * 1000), "its features are"),
        (lambda card: card.update(blocks=[]), "its blocks are missing"),
        (lambda card: card["blocks"].update(tensors=[]), "its tensors are missing"),
        (lambda card: card["blocks"]["tensors"].update(x=3), "a tensor has no block"),
        (lambda card: card["blocks"].update(ties={"a": "b"}), "its ties are not lists of names"),
        (lambda card: card["blocks"]["sizes"].update({"0.bias": True}), "its sizes are not whole numbers"),
        (lambda card: card["blocks"]["sizes"].update({"0.bias": 2**60}), "its sizes are not whole numbers"),
    ],
)
def test_cards_that_lie(folder, change, match):
    unsealed(folder, change)
    refused(lambda: PertNN.read(folder), match)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ("null", "it is no JSON object"),
        ('{"options": {"hidden": NaN}}', "damaged"),
        ('{"n": ' + "9" * 5000 + "}", "damaged"),
        ("\xff", "damaged"),
        (" " * (1 << 24), "16,777,216 bytes, where at most"),
    ],
)
def test_cards_that_are_none(folder, text, match):
    (folder / "card.json").write_bytes(text.encode("latin-1"))
    refused(lambda: PertNN.read(folder), match)


def test_a_card_with_long_names_is_refused_in_one_sentence(folder):
    def long(card):
        blocks = card["blocks"]
        for part in (blocks["sizes"], blocks["tensors"]):
            part["x" * 50_000] = part.pop("0.bias")
        blocks["tensors"]["x" * 50_000]["block"] = "x" * 50_000
        card["base_model"] = "y" * 50_000

    unsealed(folder, long)
    refused(lambda: PertNN.load(folder, nn.Linear(3, 4)), "is for another architecture")


def test_the_shipped_cards_are_sealed_and_older_ones_are_read(folder):
    for shipped in SHIPPED_FINETUNERS.values():
        card = json.loads((shipped / "card.json").read_text())
        assert seal({key: value for key, value in card.items() if key not in ("sealed", "digest")}) == card
        PertNN.read(shipped)
    now = PertNN.read(folder)
    unsealed(folder, lambda card: None)
    save_file(load_file(folder / "pertnn.safetensors"), folder / "pertnn.safetensors")
    assert PertNN.read(folder).digest() == now.digest()
