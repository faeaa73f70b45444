"""The interface of ../c/deps/greeter.wit in Python, for componentize-py."""

from statistics import fmean

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.statistics import Summary


class WitWorld:
    def greet(self, name: str) -> str:
        return f"hello, {name}"


class Statistics(exports.Statistics):
    def summarize(self, values: list[float]) -> Summary:
        if not values:
            raise Err("there are no values")
        return Summary(count=len(values), mean=fmean(values))
