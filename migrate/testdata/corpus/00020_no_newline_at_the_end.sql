-- +goose Up
	CREATE TABLE tabs (
	x	INTEGER
		);   
  INSERT INTO tabs (x) VALUES (20);