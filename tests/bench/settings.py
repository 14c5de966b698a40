"""What is compared with what, and under which loads."""

from __future__ import annotations

from typing import NamedTuple

LABELS = {"floor": "floor", "1": "1 blocking", "2": "2 busy loop", "3": "3 select", "4": "4 poll",
          "5": "5 epoll", "6-select": "6 select", "6-poll": "6 poll", "6-epoll": "6 epoll"}
SERVERS = [name for name in LABELS if name != "floor"]
SLEEPING = ["3", "4", "5", "6-select", "6-poll", "6-epoll"]   # those with a wait
BY_SELECT = ("3", "6-select")
ON_ALL = ["workers", "threads", "one_shot"]    # variants that use more than one CPU
BY_EPOLL = ("5", "6-epoll")


class Setting(NamedTuple):
    id: str
    title: str
    connections: int
    depth: int
    size: int
    floor: str                    # the setting whose floor it is compared with


BUSY = [Setting("1", "1 connection", 1, 1, 64, "1"),
        Setting("50", "50", 50, 1, 64, "1"),
        Setting("500", "500", 500, 1, 64, "1"),
        Setting("50x16", "50, 16 messages each", 50, 16, 64, "50x16"),
        Setting("16k", "50, 16 KiB", 50, 1, 16384, "16k")]
FLOOR_OF = {setting.id: setting.floor for setting in BUSY}
STALLS = {"16 KiB": 16384, "100 KB": 100_000, "1 MB": 1_000_000}

# What variants are to cost of their stage at the most.
VARIANT_AIMS = {"coroutines": {"1": 1.10, "50": 1.10, "500": 1.10, "16k": 1.10},
                "workers": {"1": 1.02, "50": 1.02, "500": 1.02, "16k": 1.02},
                "uring": {"50": 0.97, "500": 0.97}}

# What the servers of the libraries' documentation are to cost at the most, by their name.
RIVAL_AIMS = {"libuv": {"50": 0.70, "500": 0.70, "16k": 0.50},
              "libevent": {"50": 0.75, "500": 0.75}, "asio": {"50": 0.95, "500": 0.95}}
