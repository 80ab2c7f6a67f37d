-- The inbox: which events has this service applied?
--
-- A row is written in the transaction of the handler's effects. Ids of version 7 carry their time,
-- which says which child of a ring they belong to; so the same id always meets the same unique
-- index, and ids are forgotten by TRUNCATE. A child covers 2^26 ms (18.6 hours), 32 of them 24.8
-- days; the dedupe window must stay below that.

create table inbox (
  consumer   text        not null,  -- the queue's name
  event_id   uuid        not null,
  applied_at timestamptz not null default clock_timestamp()
) partition by list ((
  case when get_byte(uuid_send(event_id), 6) >> 4 = 7
       then (get_byte(uuid_send(event_id), 2) >> 2) & 31  -- bits 26 to 30 of the 48-bit milliseconds
       else -1 end));

do $$
begin
  for i in 0..31 loop
    execute format('create table inbox_%s partition of inbox for values in (%s)
                      with (autovacuum_enabled = off)', i, i);
    execute format('create unique index inbox_%s_key on inbox_%s (consumer, event_id)', i, i);
  end loop;
end $$;

-- Ids of other versions tell nothing of their time: forgotten by the time they were applied.
create table inbox_other partition of inbox for values in (-1);
create unique index inbox_other_key on inbox_other (consumer, event_id);
create index inbox_other_applied_at on inbox_other (applied_at);

-- Events made before this are no longer remembered, whatever a window says.
create table inbox_horizon (
  one     boolean     primary key default true check (one),
  horizon timestamptz not null
);
insert into inbox_horizon (horizon) values ('1970-01-01 00:00:00+00');
