-- +goose Up
CREATE TABLE audit (id INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what TEXT);
-- +goose StatementBegin
CREATE FUNCTION note_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (what) VALUES ('user ' || NEW.name || '; added');
    RETURN NEW;
END;
$$;
-- +goose StatementEnd
CREATE TRIGGER users_note AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION note_user();
INSERT INTO users (id, name) VALUES (2, 'Grace');
