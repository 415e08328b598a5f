import importlib.util
import struct

import pytest
from small_gguf import write_llama

from quail_lightning.conversion.gguf_header import read_header
from quail_lightning.errors import InputError

pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    write_llama(path, lambda name: "Q4_1")
    return path


def changed(tmp_path, whole, change):
    path = tmp_path / "changed.gguf"
    path.write_bytes(change(whole.read_bytes()))
    return path


def test_metadata_and_tensors_are_those_that_the_packages_own_reader_finds(whole):
    from gguf import GGUFReader

    header, reader = read_header(whole), GGUFReader(whole)
    said = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert dict(header.metadata) == said
    assert header.architecture == "llama"
    assert header.own("block_count") == 2
    for tensor in reader.tensors:
        ours = header.tensors[tensor.name]
        assert ours.type == tensor.tensor_type.name
        assert ours.shape == tuple(int(size) for size in tensor.shape[::-1])
        assert (ours.offset, ours.size) == (tensor.data_offset, tensor.n_bytes)
        assert ours.weights == tensor.n_elements
    assert len(header.tensors) == len(reader.tensors)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_refused(tmp_path, whole, share):
    path = changed(tmp_path, whole, lambda content: content[: max(5, int(len(content) * share))])
    with pytest.raises(InputError, match=r"is damaged: (its header goes beyond|it has [\d,]+ of)"):
        read_header(path)


def test_another_magic_version_or_byte_order_is_refused(tmp_path, whole):
    with pytest.raises(InputError, match="does not begin with GGUF"):
        read_header(changed(tmp_path, whole, lambda content: b"PK\3\4" + content[4:]))
    with pytest.raises(InputError, match="version 1"):
        read_header(changed(tmp_path, whole, lambda content: content[:4] + struct.pack("<I", 1) + content[8:]))
    with pytest.raises(InputError, match="big-endian"):
        read_header(changed(tmp_path, whole, lambda content: content[:4] + struct.pack(">I", 3) + content[8:]))


def test_counts_beyond_all_bounds_end_at_once(tmp_path, whole):
    huge = struct.pack("<Q", 2**63)
    for place in (8, 16):  # of tensors, of pairs
        with pytest.raises(InputError, match="is damaged"):
            read_header(
                changed(tmp_path, whole, lambda content, at=place: content[:at] + huge + content[at + 8 :])
            )


def at_tensor(name, change):
    """Changes what the header says of a tensor: after its name come count, sizes, type and offset."""

    def changed_content(content):
        place = content.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)
        return content[:place] + change(content[place : place + 32]) + content[place + 32 :]

    return changed_content


def test_a_tensor_of_impossible_sizes_type_or_place_is_refused(tmp_path, whole):
    name = "blk.0.attn_q.weight"
    one_more = at_tensor(name, lambda told: told[:4] + struct.pack("<Q", 65) + told[12:])
    with pytest.raises(InputError, match=r"attn_q.weight has sizes \[64, 65\], which Q4_1 cannot have"):
        read_header(changed(tmp_path, whole, one_more))
    unknown = at_tensor(name, lambda told: told[:20] + struct.pack("<I", 999) + told[24:])
    with pytest.raises(InputError, match=r"of a type that the installed package gguf does not know; got 999"):
        read_header(changed(tmp_path, whole, unknown))
    first = at_tensor(name, lambda told: told[:24] + struct.pack("<Q", 0))
    with pytest.raises(InputError, match="begins within"):
        read_header(changed(tmp_path, whole, first))


@pytest.mark.parametrize("alignment", [0, 7, 48, "x"])
def test_an_alignment_is_a_power_of_two(tmp_path, alignment):
    write_llama(tmp_path / "a.gguf", metadata={"general.alignment": alignment})
    with pytest.raises(InputError, match=f"its alignment is {alignment}, which is no power of two"):
        read_header(tmp_path / "a.gguf")


def test_a_key_that_is_said_twice_is_refused(tmp_path, whole):
    # of the same length, and with a value of the same type
    renamed = changed(tmp_path, whole, lambda content: content.replace(b"eos_token_id", b"bos_token_id", 1))
    with pytest.raises(InputError, match=r"it says tokenizer.ggml.bos_token_id twice"):
        read_header(renamed)


def test_a_missing_package_is_named_with_its_extra(whole, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"quail-lightning\[gguf\]"):
        read_header(whole)
