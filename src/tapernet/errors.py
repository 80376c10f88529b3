"""The errors this library raises on purpose; the command line turns each into a message and exit code 2."""


class TapernetError(Exception):
    """Base of every error that names something the user can put right."""


class ConfigError(TapernetError, ValueError):
    """A value, name or option that is not valid."""


class TaperError(TapernetError, ValueError):
    """A module that cannot be tapered; the message starts with its path in the model."""


class DataError(TapernetError, ValueError):
    """A data set that is missing, unreadable, or does not fit the network."""


class FileError(TapernetError, OSError):
    """A file that cannot be read or written, or is not what it should be."""


class TrainingError(TapernetError, RuntimeError):
    """A training run that cannot go on."""


class TerminationError(TapernetError, ValueError):
    """A model whose convolutions cannot stop early."""


class PruningError(TapernetError, ValueError):
    """A model whose filters cannot be removed."""
