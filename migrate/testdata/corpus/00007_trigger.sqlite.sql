-- +goose Up
CREATE TABLE audit (id INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT);
-- +goose StatementBegin
CREATE TRIGGER users_note AFTER INSERT ON users
BEGIN
    INSERT INTO audit (what) VALUES ('user ' || NEW.name || '; added');
    UPDATE audit SET what = what || '.' WHERE id = last_insert_rowid();
END;
-- +goose StatementEnd
INSERT INTO users (id, name) VALUES (2, 'Grace');
