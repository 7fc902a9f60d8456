"""The card counts what came of a conversion."""

from dataclasses import replace

from tools.convert.job import plan
from tools.convert.options import ConversionOptions
from tools.convert.outcome import Outcome, describe
from tools.listings.record_list import RecordLine, SkippedLine


def test_the_card_counts_what_came_of_it(options: ConversionOptions):
    outcome = Outcome()
    for number in range(10):
        outcome.add(RecordLine(0, 12, "raw" if number < 3 else "jpg", 2, 2, 0, "kept", f"0/{number}"))
    outcome.add(SkippedLine(1, "cut short", "1/10"))
    job = plan(replace(options, part="1/2"), settings={"mode": "mixed"})
    card = describe(replace(options, part="1/2"), job, outcome, num_bytes=99, seconds=2.0, num_resumed=5)
    assert (card.num_images, card.num_classes, card.num_planned, card.part) == (10, 10, 95, "1/2")
    assert (card.formats, card.treatments) == ({"jpg": 7, "raw": 3}, {"kept": 10})
    assert card.skipped == [{"name": "1/10", "reason": "cut short"}]
    assert (card.num_bytes, card.seconds, card.images_per_second) == (99, 2.0, 3.0)
    assert card.job == job.identity
    assert card.class_names == job.source.class_names
