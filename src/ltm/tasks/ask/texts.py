"""Texts with questions of their own: SQuAD's articles, LoCoMo's conversations, bAbI's stories, QMSum's meetings.

`squad`: an article's passages, in order, are one document (Rajpurkar et al., 2016). `many`: articles one after another
in one memory. `locomo`: a document for each session of a conversation, named by its date; category 5 has no answer
(Maharana et al., 2024). `babi`: a story is a document, its last question is asked (Weston et al., 2015). `qmsum`: a
meeting is a document; specific queries, whose answers are sentences (Zhong et al., 2021).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from ltm.tasks.ask.readings import Asked, AskedReading, ReadingUnit, drawn
from ltm.tasks.reading import Question, load_questions, split_by_title
from ltm.tasks.scoring import text_tokens

if TYPE_CHECKING:
    from ltm.tasks.ask.config import AskConfig
    from ltm.tasks.data import DataSource

Source = Callable[["AskConfig", "DataSource", Any], Iterator[ReadingUnit]]
"""Config, data and tokenizer in, units out."""

GOLD_WORDS = 300
"""Most words of a gold passage: longer ones (QMSum) would fill the window."""
_EVIDENCE = re.compile(r"D\d+:\d+")


def squad(config: AskConfig, data: DataSource, tokenizer: Any) -> Iterator[ReadingUnit]:
    """An article, its questions, and with `foreign` as many about other articles, which it does not answer."""
    articles = _articles(_half(config, data))
    titles = _order(articles, "squad", config.seed)
    for title in titles[: config.articles]:
        asked = _asked(articles[title], config, title)
        if config.foreign:
            asked += _foreign(articles, {title}, len(asked), f"ask:{config.seed}:{title}")
        yield ReadingUnit(f"squad/{title}", "squad", [_article(title, articles[title], asked)])


def many(config: AskConfig, data: DataSource, tokenizer: Any) -> Iterator[ReadingUnit]:
    """The half's articles in one memory, and after them the other half's, unasked, while `max_tokens` has room."""
    asked_half = _articles(_half(config, data))
    other_half = _articles(_half(replace(config, half="tune" if config.half == "test" else "test"), data))
    documents: list[tuple[str, str]] = []
    room = config.max_tokens
    for articles in (asked_half, other_half):
        for title in _order(articles, "many", config.seed):
            text = "\n\n".join(_passages(articles[title]))
            length = len(text_tokens(tokenizer, text))
            if length <= room:
                room -= length
                documents.append((_name(title), text))
    names = {name for name, _ in documents}
    read = {title: own for title, own in asked_half.items() if _name(title) in names}
    asked = drawn([_one(q) for own in read.values() for q in own], config.questions, f"ask:{config.seed}:many")
    unread = {title for title in asked_half if title not in read}
    if config.foreign and unread:
        asked += _foreign({t: asked_half[t] for t in unread}, set(), len(asked), f"ask:{config.seed}:many")
    passages = [passage for own in read.values() for passage in _passages(own)]
    reading = AskedReading(documents, passages, asked)
    yield ReadingUnit("many", "many", [reading], config.max_tokens)


def locomo(config: AskConfig, data: DataSource, tokenizer: Any) -> Iterator[ReadingUnit]:
    """A conversation with its questions, whose kinds are the categories."""
    for sample in islice(json.loads(data.text("locomo", "locomo10.json.gz")), config.articles):
        talk, turns, documents = sample["conversation"], dict[str, str](), []
        numbers = sorted(int(key.split("_")[1]) for key in talk if re.fullmatch(r"session_\d+", key))
        for number in numbers:
            date = talk[f"session_{number}_date_time"]
            own = {turn["dia_id"]: f"{turn['speaker']}: {turn['text']}" for turn in talk[f"session_{number}"]}
            turns |= {name: f"{date}\n{text}" for name, text in own.items()}
            documents.append((f"session {number}, {date}", "\n".join(own.values())))
        asked = [_of_talk(number, qa, turns) for number, qa in enumerate(sample["qa"])]
        own_asked = drawn(asked, config.questions, f"ask:{config.seed}:{sample['sample_id']}")
        reading = AskedReading(documents, list(turns.values()), own_asked)
        yield ReadingUnit(f"locomo/{sample['sample_id']}", "locomo", [reading])


def babi(config: AskConfig, data: DataSource, tokenizer: Any) -> Iterator[ReadingUnit]:
    """A task with as many stories as questions are asked; each is a reading of its own. The kind is the task."""
    by_task: dict[str, list[AskedReading]] = {}
    for place, story in enumerate(data.json_lines("babi", "en-test.jsonl.gz")):
        by_task.setdefault(story["task"], []).append(_story(story, place))
    for task in sorted(by_task, key=int):
        stories, count = by_task[task], config.questions or len(by_task[task])
        chosen = random.Random(f"ask:{config.seed}:babi:{task}").sample(stories, min(count, len(stories)))
        yield ReadingUnit(f"babi/{task}", "babi", chosen)


def qmsum(config: AskConfig, data: DataSource, tokenizer: Any) -> Iterator[ReadingUnit]:
    """A meeting and its specific queries."""
    for number, meeting in enumerate(islice(data.json_lines("qmsum", "test.jsonl.gz"), config.articles)):
        turns = [f"{turn['speaker']}: {turn['content']}" for turn in meeting["meeting_transcripts"]]
        asked = [
            Asked(f"qmsum-{number}-{place}", one["query"], (one["answer"],), _spans(turns, one["relevant_text_span"]))
            for place, one in enumerate(meeting["specific_query_list"])
        ]
        asked = drawn(asked, config.questions, f"ask:{config.seed}:qmsum:{number}")
        reading = AskedReading([(f"meeting {number}", "\n".join(turns))], [_cut(turn) for turn in turns], asked)
        yield ReadingUnit(f"qmsum/{number}", "qmsum", [reading])


def _half(config: AskConfig, data: DataSource) -> list[Question]:
    tune, test = split_by_title(load_questions(data))
    return test if config.half == "test" else tune


def _articles(questions: Sequence[Question]) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.title, []).append(question)
    return found


def _order(articles: dict[str, list[Question]], what: str, seed: int) -> list[str]:
    titles = sorted(articles)
    random.Random(f"ask:{seed}:{what}").shuffle(titles)
    return titles


def _article(title: str, questions: Sequence[Question], asked: Sequence[Asked]) -> AskedReading:
    passages = _passages(questions)
    return AskedReading([(_name(title), "\n\n".join(passages))], passages, asked)


def _passages(questions: Sequence[Question]) -> list[str]:
    return list(dict.fromkeys(question.passage for question in questions))


def _name(title: str) -> str:
    return title.replace("_", " ")


def _asked(questions: Sequence[Question], config: AskConfig, title: str) -> list[Asked]:
    return drawn([_one(question) for question in questions], config.questions, f"ask:{config.seed}:{title}")


def _one(question: Question) -> Asked:
    return Asked(question.id, question.question, tuple(dict.fromkeys(question.answers)), (question.passage,))


def _foreign(articles: dict[str, list[Question]], own: set[str], count: int, seed: str) -> list[Asked]:
    """Questions about other articles."""
    others = [q for title, questions in articles.items() if title not in own for q in questions]
    chosen = random.Random(seed).sample(others, min(count, len(others)))
    return [Asked(f"foreign-{one.id}", one.question, (), kind="foreign") for one in chosen]


def _of_talk(number: int, qa: dict[str, Any], turns: dict[str, str]) -> Asked:
    """A question of LoCoMo; evidence is written in several ways, and some of it names turns that are not there."""
    names = _EVIDENCE.findall(" ".join(map(str, qa["evidence"])))
    gold = tuple(turns[name] for name in dict.fromkeys(names) if name in turns)
    answers = () if qa["category"] == 5 else (str(qa["answer"]),)
    return Asked(f"{number}", qa["question"], answers, gold, f"category {qa['category']}")


def _story(story: dict[str, Any], place: int) -> AskedReading:
    """A story up to its last question."""
    last = max(number for number, line in enumerate(story["lines"]) if "question" in line)
    told = {line["n"]: line["text"] for line in story["lines"][:last] if "text" in line}
    asked = story["lines"][last]
    gold = ("\n".join(told[n] for n in asked["supporting"] if n in told),)
    answers = (asked["answer"].replace(",", ", "),)
    one = Asked(f"babi-{place}", asked["question"], answers, gold, f"task {story['task']}")
    return AskedReading([(f"story {place}", "\n".join(told.values()))], list(told.values()), [one])


def _spans(turns: Sequence[str], spans: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The turns from first to last of each span, cut together to GOLD_WORDS."""
    whole = "\n".join(turn for first, last in spans for turn in turns[int(first) : int(last) + 1])
    return (_cut(whole),)


def _cut(text: str) -> str:
    """A text's first GOLD_WORDS words."""
    found = list(islice(re.finditer(r"\S+", text), GOLD_WORDS))
    return text[: found[-1].end()] if found else text


SOURCES: dict[str, Source] = {"squad": squad, "many": many, "locomo": locomo, "babi": babi, "qmsum": qmsum}
