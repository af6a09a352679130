"""What happened to a user's items, when: an append-only list of ids and times, without any text.

The database itself keeps it, by triggers on the table of turns: whatever writes, corrects, redacts or deletes one is
noted in the same transaction, and no note can be changed.
"""

from __future__ import annotations

from dataclasses import dataclass

from ltm.notes.database import Database

NOTE = "INSERT INTO audit (time, kind, item, version, role) VALUES (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'), {}, "
NOTE += "substr(new.first, 1, 16), substr(new.hash, 1, 16), new.role);"
KIND = (
    "CASE WHEN new.hash <> new.first THEN 'corrected' WHEN new.role = 'document' THEN 'read' "
    "WHEN new.parent = '' THEN 'added' ELSE 'said' END"
)
AUDIT = (
    "CREATE TABLE IF NOT EXISTS audit (number INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, "
    "kind TEXT NOT NULL, item TEXT NOT NULL, version TEXT NOT NULL, role TEXT NOT NULL)",
    "CREATE TRIGGER IF NOT EXISTS audit_is_never_rewritten BEFORE UPDATE ON audit "
    "BEGIN SELECT RAISE (ABORT, 'what happened is never rewritten'); END",
    "CREATE TRIGGER IF NOT EXISTS audit_is_never_deleted BEFORE DELETE ON audit "
    "BEGIN SELECT RAISE (ABORT, 'what happened is never deleted'); END",
    "CREATE TRIGGER IF NOT EXISTS audit_of_a_turn AFTER INSERT ON turns WHEN NOT new.forgotten "
    f"BEGIN {NOTE.format(KIND)} END",
    "CREATE TRIGGER IF NOT EXISTS audit_of_a_deletion AFTER UPDATE OF forgotten ON turns "
    f"WHEN new.forgotten AND NOT old.forgotten BEGIN {NOTE.format(repr('deleted'))} END",
)
COLUMNS = "number, time, kind, item, version, role"


@dataclass(frozen=True)
class AuditEvent:
    """number: the next event's is larger; time: ISO 8601, UTC; kind: said, added, read (a piece of a document),
    corrected or deleted; item and
    version: ids; source: whose turn it is."""

    number: int
    time: str
    kind: str
    item: str
    version: str
    source: str


def keep_audit(database: Database) -> None:
    """Have a database of turns note what happens from now on; one that does so already stays as it is."""
    if database.value("SELECT count(*) FROM sqlite_master WHERE name GLOB 'audit*'") < len(AUDIT):
        with database.transaction():
            for statement in AUDIT:
                database.run(statement)


def audit_events(database: Database, limit: int, after: int = 0, since: str = "") -> list[AuditEvent]:
    """So many events, oldest first, after the one of a number and from a time on."""
    statement = f"SELECT {COLUMNS} FROM audit WHERE number > ? AND time >= ? ORDER BY number LIMIT ?"
    return [
        AuditEvent(number, time, kind, f"mem_{item}", f"ver_{version}", role)
        for number, time, kind, item, version, role in database.run(statement, (after, since, limit))
    ]
