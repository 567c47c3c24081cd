-- +goose Up
-- +goose StatementBegin
CREATE TRIGGER users_age AFTER UPDATE OF age ON users WHEN OLD.age <> NEW.age
BEGIN
    INSERT INTO audit (what) VALUES (CASE WHEN NEW.age > 40 THEN 'old; user' ELSE 'user' END);
END;
-- +goose StatementEnd
UPDATE users SET age = 50 WHERE id = 1;
