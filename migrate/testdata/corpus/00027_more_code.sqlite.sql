-- +goose Up
-- +goose StatementBegin
CREATE TRIGGER named_insert INSTEAD OF INSERT ON named
BEGIN
    INSERT INTO users (id, name) VALUES (NEW.id, NEW.loud);
END;
-- +goose StatementEnd
INSERT INTO named (id, loud) VALUES (3, 'LINUS');
