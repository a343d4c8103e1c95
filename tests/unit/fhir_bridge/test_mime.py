from __future__ import annotations

import base64
import io

import pytest

from fhir_bridge.mime import Part, decoded, index


def leaves(message: bytes) -> list[tuple[Part, bytes]]:
    file = io.BytesIO(message)
    return [(part, b"".join(decoded(file, part))) for part in index(file).root.leaves()]


def multipart(*parts: bytes, boundary: bytes = b"b", kind: bytes = b"mixed") -> bytes:
    body = b"".join(b"--%b\r\n%b\r\n" % (boundary, part) for part in parts)
    head = b'Content-Type: multipart/%b; boundary="%b"\r\n\r\n' % (kind, boundary)
    return head + b"preamble\r\n" + body + b"--" + boundary + b"--\r\nepilogue\r\n"


def test_a_message_without_parts_is_one_leaf() -> None:
    [(part, octets)] = leaves(b"Subject: x\r\n\r\nHello\r\n")
    assert (part.path, part.content_type, octets) == ("1", "text/plain", b"Hello\r\n")
    assert part.header("subject") == "x"
    assert part.header("from") is None


def test_parts_are_numbered_as_imap_does() -> None:
    inner = multipart(b"\r\none", b"\r\ntwo", boundary=b"inner", kind=b"alternative")
    found = leaves(multipart(inner, b"\r\nthree"))
    assert [(part.path, octets) for part, octets in found] == [
        ("1.1", b"one"),
        ("1.2", b"two"),
        ("2", b"three"),
    ]


def test_the_line_end_before_a_delimiter_is_not_the_parts() -> None:
    [(_, octets)] = leaves(multipart(b"\r\ntext\r\n"))
    assert octets == b"text\r\n"


def test_an_empty_part_is_empty() -> None:
    assert [octets for _, octets in leaves(multipart(b"", b"\r\n"))] == [b"", b""]


def test_bare_line_feeds_are_read_as_line_ends() -> None:
    message = multipart(b"\r\none", b"\r\ntwo").replace(b"\r\n", b"\n")
    assert [octets for _, octets in leaves(message)] == [b"one", b"two"]


def test_an_outer_delimiter_ends_an_inner_multipart_that_was_not_closed() -> None:
    inner = b"Content-Type: multipart/mixed; boundary=in\r\n\r\n--in\r\n\r\none"
    assert [octets for _, octets in leaves(multipart(inner, b"\r\ntwo"))] == [b"one", b"two"]


def test_a_truncated_message_ends_its_parts() -> None:
    message = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nhalf"
    assert [octets for _, octets in leaves(message)] == [b"half"]


def test_a_part_may_end_within_its_header() -> None:
    message = (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nX: 1\r\n--b\r\n\r\ntwo\r\n--b--"
    )
    assert [octets for _, octets in leaves(message)] == [b"", b"two"]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 56, 57, 58, 64 * 1024, 200_001])
def test_base64_is_decoded_in_blocks(size: int) -> None:
    octets = bytes(n % 251 for n in range(size))
    encoded = base64.encodebytes(octets).replace(b"\n", b"\r\n")
    message = b"Content-Transfer-Encoding: BASE64\r\n\r\n" + encoded
    assert leaves(message)[0][1] == octets


def test_characters_outside_the_alphabet_are_passed_over() -> None:
    message = b"Content-Transfer-Encoding: base64\r\n\r\naG!Vs\r\n \tbG8=Z"
    assert leaves(message)[0][1].startswith(b"hello")


@pytest.mark.parametrize("filler", [0, 64 * 1024 - 3, 64 * 1024 - 2, 64 * 1024 - 1, 64 * 1024])
def test_quoted_printable_is_decoded_across_blocks(filler: int) -> None:
    text = b"a" * filler + b"=C3=A9=\r\nb =3D\r\nc"
    message = b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + text
    assert leaves(message)[0][1] == b"a" * filler + "éb =\r\nc".encode()


def test_an_unknown_encoding_is_left_as_it_is() -> None:
    [(part, octets)] = leaves(b"Content-Transfer-Encoding: x-uuencode\r\n\r\nbegin\r\n")
    assert (part.encoding, octets) == ("x-uuencode", b"begin\r\n")


@pytest.mark.parametrize("kind", ["text", "a b/c", "a/b/c", ""])
def test_an_unreadable_type_is_text(kind: str) -> None:
    [(part, _)] = leaves(f"Content-Type: {kind}\r\n\r\n".encode())
    assert part.content_type == "text/plain"


def test_names_come_from_disposition_then_type() -> None:
    both = b'Content-Type: a/b; name="t"\r\nContent-Disposition: attachment; filename="d"\r\n\r\n'
    assert leaves(both)[0][0].filename == "d"
    assert leaves(b'Content-Type: a/b; name="t"\r\n\r\n')[0][0].filename == "t"


def test_nesting_deeper_than_twenty_stays_undivided() -> None:
    message = b"\r\ndeep"
    for level in range(25):
        message = multipart(message, boundary=b"b%d" % level)
    found = index(io.BytesIO(message))
    assert found.partial
    assert len(list(found.root.leaves())) == 1


def test_more_than_a_thousand_parts_stay_undivided() -> None:
    found = index(io.BytesIO(multipart(*[b"\r\nx"] * 1500)))
    assert found.partial
    assert len(list(found.root.leaves())) == 999


def test_a_header_over_the_limit_ends_there() -> None:
    found = index(io.BytesIO(b"X: 1\r\n" * 20_000 + b"\r\nbody"))
    assert found.partial


def test_a_multipart_without_boundary_is_a_leaf() -> None:
    [(part, octets)] = leaves(b"Content-Type: multipart/mixed\r\n\r\n--\r\nx\r\n")
    assert (part.path, octets) == ("1", b"--\r\nx\r\n")


def test_a_delimiter_within_an_over_long_line_is_text() -> None:
    line = b"a" * (64 * 1024) + b"--b"
    assert [octets for _, octets in leaves(multipart(b"\r\n" + line))] == [line]


def test_lines_without_a_colon_are_passed_over_in_a_header() -> None:
    [(part, _)] = leaves(b" stray\r\nnonsense\r\nSubject: x\r\n y\r\n\r\n")
    assert part.header("subject") == "x y"
