-- +goose Up
ALTER TABLE child ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_of_it ON child USING (parent > 0) WITH CHECK (parent IS NOT NULL);
CREATE RULE no_delete AS ON DELETE TO semi DO INSTEAD NOTHING;
CREATE RULE log_semi AS ON INSERT TO semi DO ALSO (INSERT INTO audit (what) VALUES ('semi'); INSERT INTO audit (what) VALUES ('colon'));
INSERT INTO semi (x) VALUES (3);
