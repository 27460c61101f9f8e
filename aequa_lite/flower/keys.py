"""Certificates of a server, with a certificate authority of its own, and keys of participants."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import re
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .._check import refusal
from .._io import error_text, read_limited, write_whole

MOST_KEY_BYTES = 1 << 16


def write_key(folder: Path | str, name: str) -> Path:
    """Write a private key and, as `name.pub`, its public key, in OpenSSH's format.

    The same as `ssh-keygen -t ecdsa -b 384 -N "" -f name`; only the owner may read the private key.

    Returns:
        The private key's path.

    Example:
        >>> import tempfile
        >>> write_key(tempfile.mkdtemp(), "participant-00").with_suffix(".pub").read_text()[:19]
        'ecdsa-sha2-nistp384'
    """
    key, path = ec.generate_private_key(ec.SECP384R1()), Path(folder) / name
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    _secret(path, private)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(public + b"\n")
    return path


def write_certificates(folder: Path | str, *hosts: str, days: int = 90) -> Path:
    """Write `ca.crt`, `server.pem` and `server.key` for a server at these addresses, and at 127.0.0.1.

    The authority's own key is not stored, so nobody can make a second certificate that participants would accept.

    Args:
        folder: Made if it is missing.
        hosts: Names or IP addresses.
        days: Until the certificates expire.

    Returns:
        The folder.

    Example:
        >>> import tempfile
        >>> sorted(p.name for p in write_certificates(tempfile.mkdtemp()).iterdir())
        ['ca.crt', 'server.key', 'server.pem']
    """
    folder = Path(folder)
    for host in hosts:
        if not re.fullmatch(r"[\w.-]{1,64}|[0-9a-fA-F:.]{2,45}", host, re.ASCII):
            raise refusal("address", "a name of at most 64 letters or an IP address, without a port", host)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "server.pem").unlink(missing_ok=True)  # written last: without it the others do not count
    authority, own = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "aequa-lite fleet on this machine")])
    basic = x509.BasicConstraints(ca=True, path_length=0)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    root = _certificate(issuer, issuer, authority.public_key(), days).add_extension(basic, critical=True)
    root = root.add_extension(usage, critical=True)
    root = root.add_extension(x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), critical=False)
    known = [_name(host) for host in (*hosts, "127.0.0.1", "localhost")]
    names = x509.SubjectAlternativeName(list(dict.fromkeys(known)))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, (*hosts, "127.0.0.1")[0])])
    leaf = _certificate(subject, issuer, own.public_key(), days).add_extension(names, critical=False)
    leaf = leaf.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    leaf = leaf.add_extension(identifier, critical=False)
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(root.sign(authority, hashes.SHA384()).public_bytes(pem))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    _secret(folder / "server.key", own.private_bytes(pem, *form))
    write_whole(folder / "server.pem", leaf.sign(authority, hashes.SHA384()).public_bytes(pem))
    return folder


def valid_certificate(folder: Path | str, *hosts: str, days: float = 31) -> bool:
    """Whether a server has its key and certificates for these addresses that do not expire within so many days.

    Example:
        >>> import tempfile
        >>> valid_certificate(write_certificates(tempfile.mkdtemp(), "10.0.0.1"), "10.0.0.2")
        False
    """
    try:
        parts = [read_limited(Path(folder) / name, MOST_KEY_BYTES) for name in ("server.pem", "ca.crt", "server.key")]
        found, authority = map(x509.load_pem_x509_certificate, parts[:2])
        found.verify_directly_issued_by(authority)
        own = serialization.load_pem_private_key(parts[2], None).public_key()
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound):
        return False
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    fits = found.public_key() == own and all(_name(host) in names for host in hosts)
    return fits and found.not_valid_after_utc > ends


def _name(host: str) -> x509.GeneralName:
    """A server's name or address, as certificates have it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    """What both certificates have in common."""
    now = datetime.datetime.now(datetime.UTC)
    began, ends = now - datetime.timedelta(minutes=5), now + datetime.timedelta(days=days)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return made.serial_number(x509.random_serial_number()).not_valid_before(began).not_valid_after(ends)


def _secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def fingerprint(key: bytes) -> str:
    """SHA-256 of a node's public key, in hexadecimal."""
    return hashlib.sha256(key).hexdigest()


def roster(folder: Path | str, participants: int) -> dict[str, int]:
    """Read whose key is whose from the files `participant-NN.pub`, in OpenSSH's format.

    Returns:
        The participant's number by the key's fingerprint.

    Raises:
        ValueError: A participant's file is missing or holds no public key, or two hold the same.

    Example:
        >>> roster("nowhere", participants=0)
        {}
    """
    found: dict[str, int] = {}
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    for number in range(participants):
        path = Path(folder) / f"participant-{number:02d}.pub"
        try:
            key = serialization.load_ssh_public_key(read_limited(path, MOST_KEY_BYTES))
            own = fingerprint(key.public_bytes(*form))
        except (OSError, ValueError, UnsupportedAlgorithm, AttributeError) as error:  # some keys have no such form
            raise ValueError(f"keys: {path} is not a public key that can be read ({error_text(error)})") from error
        if own in found:
            raise ValueError(f"keys: {path} is also the key of participant {found[own]}; each needs its own")
        found[own] = number
    return found
