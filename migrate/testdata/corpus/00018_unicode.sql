-- +goose Up
CREATE TABLE "größe" (id INTEGER PRIMARY KEY, "naïve" TEXT, 名前 TEXT);
INSERT INTO "größe" (id, "naïve", 名前) VALUES (1, 'ünïcode; 🐘', 'エレファント');
