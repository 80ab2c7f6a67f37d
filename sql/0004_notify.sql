-- Waking idle relays by NOTIFY, for those who ask for it with enable_notify().
--
-- A NOTIFY in every transaction would serialise all commits of the cluster. So writers notify only
-- while a relay sleeps, which a sequence says: it is read without a lock, and set outside of any
-- transaction.

create sequence idle_flag as int minvalue 0 maxvalue 1 start 0 cache 1;

create function notify_idle_relays() returns trigger language plpgsql
  set search_path from current as $$
begin
  if (select last_value from idle_flag) = 1 then
    perform pg_notify('pillion.' || 'outbox'::regclass::oid, '');
  end if;
  return null;
end $$;

create function enable_notify() returns void language plpgsql set search_path from current as $$
begin
  create or replace trigger notify_idle_relays after insert on outbox
    for each statement execute function notify_idle_relays();
end $$;

create function disable_notify() returns void language plpgsql set search_path from current as $$
begin
  drop trigger if exists notify_idle_relays on outbox;
end $$;

-- Raised by a relay that finds nothing for a while; it sleeps after one more look. Before that look
-- it commits another transaction, with an id taken when the flag was up: only then does the look's
-- snapshot list every writer that may have read the flag before. (setval() itself takes its
-- transaction's id before it sets anything, so that one is too early.) Lowered by
-- the relay that was woken, which wakes the others too, since from now on nobody else does.
create function raise_idle_flag() returns void language plpgsql set search_path from current as $$
begin
  perform setval('idle_flag', 1);
end $$;

create function lower_idle_flag() returns void language plpgsql set search_path from current as $$
begin
  if (select last_value from idle_flag) = 0 then return; end if;
  perform setval('idle_flag', 0);
  perform pg_notify('pillion.' || 'outbox'::regclass::oid, 'awake');
end $$;
