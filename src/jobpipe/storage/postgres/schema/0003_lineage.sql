-- serves programs from schema 1 on
-- Which database this is: a generation that only moves forward, one with every promotion, restore and new cluster, and what it
-- was seen on. Two primaries that went apart have the same generation under two marks, or two generations.
CREATE TABLE jobpipe.lineage (
    generation bigint NOT NULL,
    mark       text COLLATE "C" NOT NULL,        -- random for each generation
    system     text COLLATE "C" NOT NULL,        -- the cluster's identifier, '' where it is not told
    timeline   bigint NOT NULL,                  -- PostgreSQL's own, one more with every promotion
    stepped_at bigint NOT NULL DEFAULT 0,        -- when the clock was last seen to step, and how far, in ms
    step       bigint NOT NULL DEFAULT 0
);
INSERT INTO jobpipe.lineage (generation, mark, system, timeline) VALUES (0, '', '', 0);
