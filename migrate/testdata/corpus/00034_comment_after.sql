-- +goose Up
CREATE TABLE after1 (x INTEGER); -- done; with it
CREATE TABLE after2 (x INTEGER); /* also done */
;
