-- +goose Up
CREATE SEQUENCE counter START 100 INCREMENT 5;
CREATE TABLE counted (id BIGINT PRIMARY KEY DEFAULT nextval('counter'), s SERIAL, x TEXT);
INSERT INTO counted (x) VALUES ('a'), ('b');
SELECT setval('counter', 1000);
