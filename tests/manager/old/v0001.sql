BEGIN TRANSACTION;
CREATE TABLE attempts (
	task_id VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	proplet_id VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	deadline FLOAT NOT NULL, 
	error TEXT, 
	code VARCHAR, 
	created_at FLOAT NOT NULL, 
	accepted_at FLOAT, 
	finished_at FLOAT, 
	PRIMARY KEY (task_id, number)
);
INSERT INTO "attempts" VALUES('00000000-0000-4000-8000-000000000002',1,'p-1','completed',1763800300.5,NULL,NULL,1763800001.5,1763800002.0,1763800003.0);
INSERT INTO "attempts" VALUES('00000000-0000-4000-8000-000000000003',1,'p-1','resolving',1763800300.5,NULL,NULL,1763800001.5,NULL,NULL);
INSERT INTO "attempts" VALUES('00000000-0000-4000-8000-000000000004',1,'p-2','denied',1763800300.5,'no slot','denied',1763800001.5,NULL,1763800002.0);
INSERT INTO "attempts" VALUES('00000000-0000-4000-8000-000000000004',2,'p-1','offered',1763800300.5,NULL,NULL,1763800001.5,NULL,NULL);
INSERT INTO "attempts" VALUES('00000000-0000-4000-8000-000000000005',1,'p-1','accepted',1763800300.5,NULL,NULL,1763800001.5,1763800002.0,NULL);
INSERT INTO "attempts" VALUES('00000000-0000-4000-8000-000000000006',1,'p-1','lost',1763800300.5,'lease expired','lease_expired',1763800001.5,NULL,1763800002.0);
INSERT INTO "attempts" VALUES('00000000-0000-4000-8000-000000000006',2,'p-2','failed',1763800300.5,'it trapped','guest_trap',1763800001.5,NULL,1763800004.0);
INSERT INTO "attempts" VALUES('00000000-0000-4000-8000-000000000007',1,'p-1','interrupted',1763800300.5,NULL,NULL,1763800001.5,NULL,1763800004.0);
INSERT INTO "attempts" VALUES('00000000-0000-4000-8000-000000000008',1,'p-1','completed',1763800300.5,NULL,NULL,1763800001.5,1763800002.0,1763800003.0);
INSERT INTO "attempts" VALUES('00000000-0000-4000-8000-000000000008',2,'p-2','offered',1763800300.5,NULL,NULL,1763800001.5,NULL,NULL);
CREATE TABLE proplets (
	id VARCHAR NOT NULL, 
	description TEXT NOT NULL, 
	last_seen FLOAT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "proplets" VALUES('p-1','{"id": "p-1", "name": "one", "legacy": false}',1763800000.0);
INSERT INTO "proplets" VALUES('p-2','{"id": "p-2", "name": "two"}',1763800001.0);
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO "schema_version" VALUES(1);
CREATE TABLE tasks (
	id VARCHAR NOT NULL, 
	state INTEGER NOT NULL, 
	spec TEXT NOT NULL, 
	digest VARCHAR, 
	size INTEGER, 
	attempt INTEGER NOT NULL, 
	proplet_id VARCHAR, 
	idempotency_key VARCHAR, 
	fingerprint BLOB, 
	result TEXT, 
	error TEXT, 
	code VARCHAR, 
	created_at FLOAT NOT NULL, 
	updated_at FLOAT NOT NULL, 
	started_at FLOAT, 
	finished_at FLOAT, 
	PRIMARY KEY (id), 
	UNIQUE (idempotency_key)
);
INSERT INTO "tasks" VALUES('00000000-0000-4000-8000-000000000001',0,'{"name":"task-1","kind":"standard","image_url":"local-registry:5000/add:1","file":"","inputs":["2","40"],"env":{"A":"ü"},"dataset":"","priority":50,"metadata":{"team":"a","n":1},"timeout_s":60.0,"retries":1,"tokens":{},"start":false}',NULL,NULL,0,NULL,'round-1/p-1',X'6B86B273FF34FCE19D6B804EFF5A3F5747ADA4EAA22F1D49C01E52DDB7875B4B',NULL,NULL,NULL,1763800001.25,1763800002.25,NULL,NULL);
INSERT INTO "tasks" VALUES('00000000-0000-4000-8000-000000000002',3,'{"name":"task-2","kind":"standard","image_url":"","file":"sha256:abababababababababababababababababababababababababababababababab","inputs":[],"env":{},"dataset":"","priority":50,"metadata":{},"timeout_s":300.0,"retries":0,"tokens":{},"start":false}','sha256:cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd',1234,1,'p-1',NULL,NULL,'"42"',NULL,NULL,1763800002.25,1763800003.25,1763800002.0,1763800003.0);
INSERT INTO "tasks" VALUES('00000000-0000-4000-8000-000000000003',1,'{"name":"task-3","kind":"standard","image_url":"local-registry:5000/add:1","file":"","inputs":["2","40"],"env":{"A":"ü"},"proplet_id":"p-1","dataset":"","priority":50,"metadata":{"team":"a","n":3},"timeout_s":60.0,"retries":1,"tokens":{},"start":false}','sha256:cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd',1234,1,'p-1','round-1/p-3',X'4E07408562BEDB8B60CE05C1DECFE3AD16B72230967DE01F640B7E4729B49FCE',NULL,NULL,NULL,1763800003.25,1763800004.25,NULL,NULL);
INSERT INTO "tasks" VALUES('00000000-0000-4000-8000-000000000004',1,'{"name":"task-4","kind":"standard","image_url":"local-registry:5000/add:1","file":"","inputs":["2","40"],"env":{"A":"ü"},"dataset":"","priority":50,"metadata":{"team":"a","n":4},"timeout_s":60.0,"retries":1,"tokens":{},"start":false}','sha256:cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd',1234,2,'p-1',NULL,NULL,NULL,NULL,NULL,1763800004.25,1763800005.25,NULL,NULL);
INSERT INTO "tasks" VALUES('00000000-0000-4000-8000-000000000005',2,'{"name":"task-5","kind":"standard","image_url":"local-registry:5000/add:1","file":"","inputs":["2","40"],"env":{"A":"ü"},"dataset":"","priority":50,"metadata":{"team":"a","n":5},"timeout_s":60.0,"retries":1,"tokens":{},"start":false}','sha256:cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd',1234,1,'p-1','round-1/p-5',X'EF2D127DE37B942BAAD06145E54B0C619A1F22327B2EBBCFBEC78F5564AFE39D',NULL,NULL,NULL,1763800005.25,1763800006.25,1763800002.0,NULL);
INSERT INTO "tasks" VALUES('00000000-0000-4000-8000-000000000006',4,'{"name":"task-6","kind":"standard","image_url":"local-registry:5000/add:1","file":"","inputs":["2","40"],"env":{"A":"ü"},"dataset":"","priority":50,"metadata":{"team":"a","n":6},"timeout_s":60.0,"retries":1,"tokens":{},"start":false}','sha256:cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd',1234,2,'p-2',NULL,NULL,NULL,'it trapped','guest_trap',1763800006.25,1763800007.25,NULL,1763800004.0);
INSERT INTO "tasks" VALUES('00000000-0000-4000-8000-000000000007',6,'{"name":"task-7","kind":"standard","image_url":"local-registry:5000/add:1","file":"","inputs":["2","40"],"env":{"A":"ü"},"dataset":"","priority":50,"metadata":{"team":"a","n":7},"timeout_s":60.0,"retries":1,"tokens":{},"start":false}','sha256:cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd',1234,1,'p-1','round-1/p-7',X'7902699BE42C8A8E46FBBB4501726517E86B22C56A189F7625A6DA49081B2451',NULL,'stopped','interrupted',1763800007.25,1763800008.25,NULL,1763800004.0);
INSERT INTO "tasks" VALUES('00000000-0000-4000-8000-000000000008',1,'{"name":"task-8","kind":"standard","image_url":"local-registry:5000/add:1","file":"","inputs":["2","40"],"env":{"A":"ü"},"dataset":"","priority":50,"metadata":{"team":"a","n":8},"timeout_s":60.0,"retries":1,"tokens":{},"start":false}','sha256:cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd',1234,2,'p-2',NULL,NULL,NULL,NULL,NULL,1763800008.25,1763800009.25,NULL,NULL);
CREATE INDEX tasks_by_age ON tasks (created_at);
CREATE INDEX attempts_by_state ON attempts (state);
COMMIT;
