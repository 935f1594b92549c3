"""What can go wrong, as one family of errors whose message is one line a user can act on."""


class SafegenError(Exception):
    """Base of every error that safegen raises on purpose."""


class UsageError(SafegenError):
    """A request that has no meaning: an unknown solver, a size that does not divide by 8."""


class EngineError(SafegenError):
    """An engine folder that is incomplete, changed, of another schema, or cannot run here."""


class BundleError(SafegenError):
    """A negation bundle that is missing, changed, or made for another autoencoder."""


class GuardError(SafegenError):
    """A guard that the engine does not allow, or that has no bundle to guard with."""


class ImageError(SafegenError):
    """An image file that cannot be read."""


class ExportError(SafegenError):
    """A checkpoint that is unknown, incomplete, or whose exported graph differs from it."""
