"""The products that are compared, one class each."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from benchmarks.comparison.product import Answers, Product, Threads

__all__ = [
    "ANSWERS",
    "PRODUCTS",
    "THREADS",
    "Answers",
    "Product",
    "Threads",
    "product_class",
    "versions_of",
    "why_missing",
]

ANSWERS = {  # module of this package, and class, in the order of the tables
    "tiercache": "tiercache:Tiercache",
    "langchain-memory": "langchain:LangchainMemory",
    "langchain-community": "langchain:LangchainCommunity",
    "langchain-redis": "langchain:LangchainRedis",
    "litellm": "litellm:LiteLlm",
    "betterdb": "betterdb:Betterdb",
    "gptcache": "gptcache:GptCache",
}
THREADS = {
    "tiercache-saver": "savers:TiercacheSaver",
    "memory-saver": "savers:MemorySaver",
    "redis-saver": "savers:RedisModulesSaver",
    "aws-saver": "savers:AwsValkeySaver",
    "betterdb-saver": "savers:BetterdbSaver",
}
PRODUCTS = ANSWERS | THREADS


def product_class(name: str) -> type[Product]:
    """Return the class of a product, whose libraries are imported only here.

    Args:
        name: A name of `PRODUCTS`, or the full name of a module and a class, with a colon between them.

    Raises:
        ImportError: A library is not installed.
    """
    module, _, attribute = (f"{__name__}.{PRODUCTS[name]}" if name in PRODUCTS else name).partition(":")
    found: type[Product] = getattr(import_module(module), attribute)
    return found


def why_missing(name: str) -> str:
    """Return why the product cannot run here, or an empty text if it can."""
    try:
        return product_class(name).missing()
    except ImportError as error:
        return str(error)


def versions_of(product: type[Product]) -> dict[str, str]:
    """Return the version of each distribution of the product."""
    found = {}
    for distribution in product.distributions:
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:  # tiercache in a checkout
            found[distribution] = "checkout"
    return found
