-- +goose Up
CREATE TABLE semi (x INTEGER)
;

INSERT INTO semi (x)
VALUES (1)
     , (2)
;
