BEGIN TRANSACTION;
CREATE TABLE participants (
	round_id VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	proplet_id VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	task_id VARCHAR NOT NULL, 
	code VARCHAR NOT NULL, 
	error VARCHAR NOT NULL, 
	wasm_digest VARCHAR NOT NULL, 
	launched_at FLOAT, 
	ended_at FLOAT, 
	PRIMARY KEY (round_id, proplet_id), 
	FOREIGN KEY(round_id) REFERENCES rounds (round_id)
);
INSERT INTO "participants" VALUES('r-0',0,'p-2','updated','00000000-0000-4000-8000-000000000001','','','',1763800001.0,NULL);
INSERT INTO "participants" VALUES('r-0',1,'p-1','pending','','','','',NULL,NULL);
INSERT INTO "participants" VALUES('r-1',0,'p-2','updated','00000000-0000-4000-8000-000000000001','','','',1763800001.0,NULL);
INSERT INTO "participants" VALUES('r-1',1,'p-1','pending','','','','',NULL,NULL);
INSERT INTO "participants" VALUES('r-2',0,'p-2','updated','00000000-0000-4000-8000-000000000001','','','',1763800001.0,NULL);
INSERT INTO "participants" VALUES('r-2',1,'p-1','pending','','','','',NULL,NULL);
CREATE TABLE rounds (
	number INTEGER NOT NULL, 
	round_id VARCHAR NOT NULL, 
	config VARCHAR NOT NULL, 
	base VARCHAR NOT NULL, 
	base_digest VARCHAR NOT NULL, 
	base_shapes VARCHAR NOT NULL, 
	k_of_n INTEGER NOT NULL, 
	created_at FLOAT NOT NULL, 
	deadline FLOAT NOT NULL, 
	state VARCHAR NOT NULL, 
	code VARCHAR NOT NULL, 
	error VARCHAR NOT NULL, 
	answer VARCHAR NOT NULL, 
	aggregating_at FLOAT, 
	finished_at FLOAT, 
	model_version INTEGER, 
	model_digest VARCHAR NOT NULL, 
	announced BOOLEAN NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (round_id)
);
INSERT INTO "rounds" VALUES(1,'r-0','{"experiment_id":"","round_id":"r-0","model_ref":"fl/models/global_model_v0","participants":["p-1","p-2"],"hyperparams":{},"k_of_n":null,"timeout_s":60.0,"task_wasm_image":"x:1"}','fl/models/global_model_v0','sha256:eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee','{"w": [3], "b": []}',2,1763800000.0,1763800060.0,'completed','','','',NULL,1763800009.0,1,'sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff',1);
INSERT INTO "rounds" VALUES(2,'r-1','{"experiment_id":"","round_id":"r-1","model_ref":"fl/models/global_model_v1","participants":["p-1","p-2"],"hyperparams":{},"k_of_n":null,"timeout_s":60.0,"task_wasm_image":"x:1"}','fl/models/global_model_v1','sha256:eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee','{"w": [3], "b": []}',2,1763800001.0,1763800061.0,'configured','','','',NULL,NULL,NULL,'',0);
INSERT INTO "rounds" VALUES(3,'r-2','{"experiment_id":"","round_id":"r-2","model_ref":"fl/models/global_model_v2","participants":["p-1","p-2"],"hyperparams":{},"k_of_n":null,"timeout_s":60.0,"task_wasm_image":"x:1"}','fl/models/global_model_v2','sha256:eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee','{"w": [3], "b": []}',2,1763800002.0,1763800062.0,'failed','','','',NULL,1763800009.0,NULL,'sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff',0);
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO "schema_version" VALUES(1);
CREATE TABLE updates (
	round_id VARCHAR NOT NULL, 
	proplet_id VARCHAR NOT NULL, 
	digest VARCHAR NOT NULL, 
	num_samples INTEGER NOT NULL, 
	metrics VARCHAR NOT NULL, 
	received_at FLOAT NOT NULL, 
	body BLOB, 
	PRIMARY KEY (round_id, proplet_id), 
	FOREIGN KEY(round_id) REFERENCES rounds (round_id)
);
INSERT INTO "updates" VALUES('r-0','p-2','sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',10,'{"loss":0.5}',1763800002.0,X'7B2277223A5B312C322C335D2C2262223A317D');
INSERT INTO "updates" VALUES('r-1','p-2','sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',10,'{"loss":0.5}',1763800002.0,X'7B2277223A5B312C322C335D2C2262223A317D');
INSERT INTO "updates" VALUES('r-2','p-2','sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',10,'{"loss":0.5}',1763800002.0,X'7B2277223A5B312C322C335D2C2262223A317D');
CREATE INDEX ix_rounds_state ON rounds (state);
COMMIT;
