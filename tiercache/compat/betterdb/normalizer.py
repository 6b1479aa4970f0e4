"""The normalizers of binary parts, under betterdb-agent-cache's name of the module."""

from ...adapters.normalizer import (
    Base64Source,
    BinaryNormalizer,
    BinaryRef,
    BinarySource,
    BytesSource,
    FileIdSource,
    NormalizerConfig,
    UrlSource,
    compose_normalizer,
    default_normalizer,
    fetch_and_hash,
    hash_base64,
    hash_bytes,
    hash_url,
    passthrough,
)

__all__ = [
    "Base64Source",
    "BinaryNormalizer",
    "BinaryRef",
    "BinarySource",
    "BytesSource",
    "FileIdSource",
    "NormalizerConfig",
    "UrlSource",
    "compose_normalizer",
    "default_normalizer",
    "fetch_and_hash",
    "hash_base64",
    "hash_bytes",
    "hash_url",
    "passthrough",
]
