"""The best widths of a network's layers under a limit of MACs or time."""

from tapernet.search.result import Candidate, SearchResult
from tapernet.search.run import search_budget

__all__ = ["Candidate", "SearchResult", "search_budget"]
