-- Until when a password is good that somebody else chose, or that was generated: it signs nobody in, it only serves to
-- choose another (ASVS 5.0 6.4.1). Null: the user chose it himself, or it may stay.
alter table app_user add column password_initial_until timestamptz;
