-- +goose Up
INSERT INTO comments (id, text) VALUES (1, 'a;b''c -- no comment /* none either');
INSERT INTO comments (id, text) VALUES (2, '$$not a body$$'), (3, '"quoted"'), (4, '');
INSERT INTO comments (id, text) VALUES (5, 'back\slash');
