-- The library, version 1.0: every recording that was ever to become text, and its text.
--
-- The version of a file is its user_version: major times 65536 plus minor. Version 1.1 will be a
-- script of its own that adds to this one; a file that has been used is never made anew.
-- Times of day are ISO 8601 in UTC; what has parts is JSON, as on the wire.

CREATE TABLE job (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,  -- in the order in which they were added
    id          TEXT NOT NULL UNIQUE,               -- its name on the wire
    path        TEXT NOT NULL,                      -- bytes where the name is not Unicode
    folded      TEXT NOT NULL,                      -- the path as it is searched
    settings    TEXT NOT NULL,                      -- what was asked for; never changes
    added_at    TEXT NOT NULL,
    size_bytes  INTEGER NOT NULL,
    content     TEXT NOT NULL,                      -- sha256 of the file, '' while not known
    state       TEXT NOT NULL,
    seq         INTEGER NOT NULL,                   -- number of the last event that is stored
    engine      TEXT,
    summary     TEXT,
    stages      TEXT NOT NULL,                      -- seconds of the client's own stages
    sent_bytes  INTEGER NOT NULL,
    error       TEXT,
    started_at  TEXT,
    ended_at    TEXT,
    exports     TEXT NOT NULL,                      -- files its text was written to
    segments    INTEGER NOT NULL DEFAULT 0,         -- how many there are
    in_order    INTEGER NOT NULL DEFAULT 1          -- whether they came in time order
);

CREATE INDEX job_content ON job (content) WHERE content != '';
CREATE INDEX job_state ON job (state);

-- A job's segments lie side by side, in the order in which they came. Its id is
-- (2^31 - 1 - number of the job) * 2^32 + number of the segment: a newer job has smaller ids, so
-- the index below gives the newest first by itself.
CREATE TABLE segment (
    id                INTEGER PRIMARY KEY,
    start_ms          INTEGER NOT NULL,
    end_ms            INTEGER NOT NULL,
    channel           INTEGER,
    language          TEXT NOT NULL,
    avg_logprob       REAL NOT NULL,
    compression_ratio REAL NOT NULL,
    no_speech_prob    REAL NOT NULL,
    temperature       REAL NOT NULL,
    text              TEXT NOT NULL,  -- what was heard
    edited            TEXT,           -- what the user made of it
    indexed           TEXT            -- what is searched, where that is not the text as it is
);

-- Words are many and seldom wanted: apart, so that a segment stays short.
CREATE TABLE words (
    segment INTEGER PRIMARY KEY,
    words   TEXT NOT NULL             -- [[start_ms, end_ms, text, probability], ...]
);

-- Edits of a job whose events are told anew, until what they were made of has come again.
CREATE TABLE kept_edit (
    segment INTEGER PRIMARY KEY,
    heard   TEXT NOT NULL,
    edited  TEXT NOT NULL
);

CREATE VIEW said AS
    SELECT id, coalesce(indexed, edited, text) AS text FROM segment;

-- The program keeps it in step with the view: a trigger would run for each segment by itself and
-- take five times as long. Marks (M*) are parts of words in the scripts of India.
CREATE VIRTUAL TABLE search USING fts5 (
    text,
    content = 'said',
    content_rowid = 'id',
    columnsize = 0,
    tokenize = "unicode61 remove_diacritics 2 categories 'L* N* Co M*'"
);
