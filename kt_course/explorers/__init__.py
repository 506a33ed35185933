"""What every explorer shares: a shell with controls, pictures of a reading, live updates.

The explorers themselves lie in their chapters, `kt_course.chapters.<topic>.explorer`.
"""
